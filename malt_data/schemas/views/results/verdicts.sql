-- The verifier as a critic of the previous answer (judgement.sql): how often it accepts and rejects
-- right and wrong answers. Answers that could not be graded count as wrong, as elsewhere.
CREATE VIEW verdicts AS
WITH judged AS (
    SELECT
        verifier.setting,
        verifier.turn,
        before.correct,
        judgement(
            verifier.text, verifier.answer, verifier.correct, before.answer, before.correct,
            questions.choices IS NOT NULL
        ) AS judgement
    FROM completions AS verifier
    JOIN turns AS before
        ON before.setting = verifier.setting AND before.seed = verifier.seed
        AND before.question_id = verifier.question_id AND before.pass = verifier.pass
        AND before.turn = verifier.turn - 1
    JOIN questions ON questions.question_id = verifier.question_id
    WHERE verifier.role = 'verifier'
)
SELECT
    setting,
    turn,
    count(*) AS judged,
    count(*) FILTER (judgement = 'accepts' AND correct) AS true_acceptances,
    count(*) FILTER (judgement = 'accepts' AND NOT correct) AS false_acceptances,
    count(*) FILTER (judgement = 'rejects' AND NOT correct) AS true_rejections,
    count(*) FILTER (judgement = 'rejects' AND correct) AS false_rejections,
    count(*) FILTER (judgement = 'unclear') AS unclear,
    avg(((judgement = 'accepts') = correct)::DOUBLE) FILTER (judgement <> 'unclear') AS accuracy
FROM judged
GROUP BY setting, turn
ORDER BY setting, turn;
