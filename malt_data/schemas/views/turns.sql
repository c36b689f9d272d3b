-- Every turn of every pass, with the answer of the pass if it ended there; a role that judges
-- keeps the previous one if it has none of its own. same_as: the first pass with the same answer
-- after this turn; null if there is no answer. Only of what has a prediction.
CREATE VIEW turns AS
WITH said AS (
    SELECT
        setting,
        seed,
        question_id,
        pass,
        turn,
        role,
        last_value(
            CASE WHEN answer IS NOT NULL OR NOT coalesce(judges, false)
                THEN {'answer': answer, 'correct': correct} END
            IGNORE NULLS
        ) OVER (PARTITION BY setting, seed, question_id, pass ORDER BY turn) AS last
    FROM completions
    LEFT JOIN roles USING (role)
)
SELECT
    said.setting,
    said.seed,
    said.question_id,
    said.pass,
    said.turn,
    said.role,
    said.last.answer AS answer,
    coalesce(said.last.correct, false) AS correct,
    predictions.same_as[said.turn + 1][said.pass + 1] AS same_as
FROM said
JOIN predictions USING (setting, seed, question_id);
