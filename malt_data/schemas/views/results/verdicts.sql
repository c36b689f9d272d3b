-- Roles that judge the previous answer (judgement.sql): how often they accept and reject right and
-- wrong answers, turn by turn. Answers that could not be graded count as wrong, as elsewhere.
CREATE VIEW verdicts AS
WITH judged AS (
    SELECT
        critic.setting,
        critic.turn,
        before.correct,
        judgement(
            critic.text, critic.answer, critic.correct, before.answer, before.correct,
            questions.choices IS NOT NULL
        ) AS judgement
    FROM completions AS critic
    JOIN roles ON roles.role = critic.role AND roles.judges
    JOIN turns AS before
        ON before.setting = critic.setting AND before.seed = critic.seed
        AND before.question_id = critic.question_id AND before.pass = critic.pass
        AND before.turn = critic.turn - 1
    JOIN questions ON questions.question_id = critic.question_id
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
