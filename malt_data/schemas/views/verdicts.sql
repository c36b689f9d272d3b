-- The roles that judge the answer before them: how often each accepts and rejects right and wrong
-- answers, in the base of the trees.
CREATE VIEW verdicts AS
SELECT
    role,
    depth,
    count(*) AS judged,
    count(*) FILTER (judgement = 'accepts' AND correct) AS true_acceptances,
    count(*) FILTER (judgement = 'accepts' AND NOT correct) AS false_acceptances,
    count(*) FILTER (judgement = 'rejects' AND NOT correct) AS true_rejections,
    count(*) FILTER (judgement = 'rejects' AND correct) AS false_rejections,
    count(*) FILTER (judgement = 'unclear') AS unclear,
    avg(holds::DOUBLE) AS accuracy
FROM judgements
WHERE base
GROUP BY role, depth
ORDER BY depth;
