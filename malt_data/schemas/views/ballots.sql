-- The vote of the first 1, 3, 5, … and of all passes if every pass ended after this turn: the most
-- frequent answer, ties going to the one given first; passes without an answer do not vote.
CREATE VIEW ballots AS
WITH units AS (
    SELECT setting, seed, question_id, turn, max(pass) + 1 AS passes
    FROM turns
    SEMI JOIN predictions USING (setting, seed, question_id)
    GROUP BY ALL
),
sizes AS (
    SELECT *, unnest(range(1, passes + 1)) AS voters
    FROM units
),
counted AS (
    SELECT
        setting,
        seed,
        question_id,
        turn,
        passes,
        voters,
        same_as,
        count(same_as) AS votes,
        first(answer ORDER BY pass) AS answer,
        first(correct ORDER BY pass) AS correct
    FROM sizes
    JOIN turns USING (setting, seed, question_id, turn)
    WHERE pass < voters AND (voters % 2 = 1 OR voters = passes)
    GROUP BY ALL
)
SELECT
    setting,
    seed,
    question_id,
    turn,
    passes,
    voters,
    first(answer ORDER BY votes DESC, same_as) AS answer,
    first(correct ORDER BY votes DESC, same_as) AS correct
FROM counted
GROUP BY ALL;
