-- The forest in one row: number of trees, how mixed they are, what the refiner fixes and breaks.
WITH trees AS (
    SELECT question_id, avg(reward) AS reward
    FROM nodes
    WHERE depth = 3
    GROUP BY question_id
),
turns AS (
    SELECT generator.correct AS before, leaf.correct AS after
    FROM nodes AS leaf
    JOIN nodes AS generator
        ON generator.question_id = leaf.question_id AND generator.depth = 1
        AND generator.g = leaf.g
    WHERE leaf.depth = 3
)
SELECT
    (SELECT count(*) FROM questions) AS questions,
    (SELECT count(*) FROM trees) AS trees,
    (SELECT count(*) FROM trees WHERE reward = 1) AS all_right,
    (SELECT count(*) FROM trees WHERE reward = 0) AS all_wrong,
    (SELECT count(*) FROM trees WHERE reward > 0 AND reward < 1) AS mixed,
    (SELECT avg(after::DOUBLE) FROM turns WHERE NOT before) AS fix_rate,
    (SELECT avg((NOT after)::DOUBLE) FROM turns WHERE before) AS break_rate;
