-- The roles that judge the answer before them (judgement.sql): how often each accepts and rejects
-- right and wrong answers, in the base of the trees. Answers that could not be graded count as
-- wrong, as elsewhere.
CREATE VIEW verdicts AS
WITH judged AS (
    SELECT
        judge.role::VARCHAR AS role,
        judge.depth,
        coalesce(before.correct, false) AS correct,
        judgement(
            judge.text, judge.answer, judge.correct, before.answer, before.correct,
            questions.choices IS NOT NULL
        ) AS judgement
    FROM marked AS judge
    JOIN nodes AS before
        ON before.question_id = judge.question_id AND before.node = judge.parent
    JOIN questions ON questions.question_id = judge.question_id
    JOIN roles ON roles.role = judge.role::VARCHAR AND roles.judges
    WHERE judge.base
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
