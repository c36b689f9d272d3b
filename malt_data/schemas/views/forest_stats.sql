-- The forest in one row: number of trees, how mixed they are, what the later turns fix and break of
-- the first answers.
WITH RECURSIVE trees AS (
    SELECT question_id, avg(reward) AS reward
    FROM nodes
    WHERE reward IS NOT NULL
    GROUP BY question_id
),
paths AS (
    SELECT question_id, correct AS after, node, parent
    FROM nodes
    WHERE reward IS NOT NULL
    UNION ALL
    SELECT paths.question_id, paths.after, above.node, above.parent
    FROM paths
    JOIN nodes AS above
        ON above.question_id = paths.question_id AND above.node = paths.parent
),
turns AS (
    SELECT first.correct AS before, paths.after
    FROM paths
    JOIN nodes AS first USING (question_id, node)
    WHERE paths.parent IS NULL AND first.reward IS NULL
)
SELECT
    (SELECT count(*) FROM questions) AS questions,
    (SELECT count(*) FROM trees) AS trees,
    (SELECT count(*) FROM trees WHERE reward = 1) AS all_right,
    (SELECT count(*) FROM trees WHERE reward = 0) AS all_wrong,
    (SELECT count(*) FROM trees WHERE reward > 0 AND reward < 1) AS mixed,
    (SELECT avg(after::DOUBLE) FROM turns WHERE NOT before) AS fix_rate,
    (SELECT avg((NOT after)::DOUBLE) FROM turns WHERE before) AS break_rate;
