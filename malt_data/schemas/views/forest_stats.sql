-- The forest in one row: number of trees, how mixed they are, what the later turns fix and break of
-- the first answers. Of the base of each tree. `schemas/paths.py` fills in the turns of the forest.
CREATE VIEW forest_stats AS
WITH ended AS (
    SELECT question_id, avg(reward) AS reward
    FROM marked
    WHERE base AND reward IS NOT NULL
    GROUP BY question_id
),
turns AS (
    SELECT {first}.correct AS before, {leaf}.correct AS after
    FROM marked AS {leaf}
    {above}
    WHERE {leaf}.base AND {leaf}.reward IS NOT NULL AND {first}.reward IS NULL
)
SELECT
    (SELECT count(*) FROM questions) AS questions,
    (SELECT count(*) FROM ended) AS trees,
    (SELECT count(*) FROM ended WHERE reward = 1) AS all_right,
    (SELECT count(*) FROM ended WHERE reward = 0) AS all_wrong,
    (SELECT count(*) FROM ended WHERE reward > 0 AND reward < 1) AS mixed,
    (SELECT avg(after::DOUBLE) FROM turns WHERE NOT before) AS fix_rate,
    (SELECT avg((NOT after)::DOUBLE) FROM turns WHERE before) AS break_rate;
