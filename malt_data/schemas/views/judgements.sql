-- The nodes of roles that judge, and what each says of the answer before it (judgement.sql):
-- accepts, rejects or unclear. holds: whether it is right about it; null if unclear. Answers that
-- could not be graded count as wrong, as elsewhere.
CREATE VIEW judgements AS
WITH judged AS (
    SELECT
        judge.question_id,
        judge.node_id,
        judge.role::VARCHAR AS role,
        judge.depth,
        judge.base,
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
)
SELECT *, CASE WHEN judgement <> 'unclear' THEN (judgement = 'accepts') = correct END AS holds
FROM judged;
