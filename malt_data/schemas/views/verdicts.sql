-- The verifier as a critic of the previous answer (judgement.sql): how often it accepts and rejects
-- right and wrong answers. Answers that could not be graded count as wrong, as elsewhere.
CREATE VIEW verdicts AS
WITH judged AS (
    SELECT
        verifier.role::VARCHAR AS role,
        verifier.depth,
        coalesce(before.correct, false) AS correct,
        judgement(
            verifier.text, verifier.answer, verifier.correct, before.answer, before.correct,
            questions.choices IS NOT NULL
        ) AS judgement
    FROM nodes AS verifier
    JOIN nodes AS before
        ON before.question_id = verifier.question_id AND before.node_id = verifier.parent_id
    JOIN questions ON questions.question_id = verifier.question_id
    WHERE verifier.role = 'verifier'
)
SELECT
    role,
    depth,
    count(*) AS judged,
    count(*) FILTER (judgement = 'accepts' AND correct) AS true_acceptances,
    count(*) FILTER (judgement = 'accepts' AND NOT correct) AS false_acceptances,
    count(*) FILTER (judgement = 'rejects' AND NOT correct) AS true_rejections,
    count(*) FILTER (judgement = 'rejects' AND correct) AS false_rejections,
    count(*) FILTER (judgement = 'unclear') AS unclear,
    avg(((judgement = 'accepts') = correct)::DOUBLE) FILTER (judgement <> 'unclear') AS accuracy
FROM judged
GROUP BY role, depth
ORDER BY depth;
