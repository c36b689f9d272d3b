-- Every turn of every pass with what the pass would answer if it ended there: a verifier that
-- names no answer leaves the generator's.
CREATE VIEW turns AS
SELECT
    setting,
    seed,
    question_id,
    pass,
    turn,
    role,
    CASE WHEN role = 'verifier' AND answer IS NULL THEN lag(answer) OVER pass ELSE answer END
        AS answer,
    coalesce(
        CASE WHEN role = 'verifier' AND answer IS NULL THEN lag(correct) OVER pass ELSE correct END,
        false
    ) AS correct
FROM completions
WINDOW pass AS (PARTITION BY setting, seed, question_id, pass ORDER BY turn);
