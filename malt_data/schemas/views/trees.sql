-- One row per tree: how it ended, what its turns can be trained on, and what they did to each
-- other's answers. value, outcome, rescued and spoiled are of the base of the tree; misled counts
-- all nodes that judge. An answer that could not be graded is neither rescued nor spoiled.
-- `schemas/paths.py` fills in the turns of the forest.
CREATE VIEW trees AS
WITH whole AS (
    SELECT
        question_id,
        count(*) AS nodes,
        count(reward) AS leaves,
        avg(reward) FILTER (base) AS value,
        count(*) FILTER (verdict = 'unanswered') AS unanswered,
        count(*) FILTER (finish_reason = 'length') AS truncated,
        sum(completion_tokens)::BIGINT AS completion_tokens
    FROM marked
    GROUP BY question_id
),
siblings AS (
    SELECT
        question_id,
        depth,
        count(*) FILTER (label) * count(*) FILTER (NOT label) AS pairs
    FROM nodes
    GROUP BY question_id, depth, parent
),
taught AS (
    SELECT
        question_id,
        sum(pairs)::BIGINT AS pairs,
        count(DISTINCT depth) FILTER (pairs > 0) AS turns_with_pairs
    FROM siblings
    GROUP BY question_id
),
paths AS (
    SELECT
        {leaf}.question_id,
        count(*) FILTER (NOT {first}.correct AND {leaf}.correct) AS rescued,
        count(*) FILTER ({first}.correct AND NOT {leaf}.correct) AS spoiled
    FROM marked AS {leaf}
    {above}
    WHERE {leaf}.base AND {leaf}.reward IS NOT NULL AND {first}.reward IS NULL
    GROUP BY {leaf}.question_id
),
judged AS (
    SELECT question_id, count(*) FILTER (NOT holds) AS misled
    FROM judgements
    GROUP BY question_id
)
SELECT
    whole.question_id,
    CASE value WHEN 1 THEN 'all right' WHEN 0 THEN 'all wrong' ELSE 'mixed' END AS outcome,
    value,
    nodes,
    leaves,
    pairs,
    turns_with_pairs,
    coalesce(misled, 0) AS misled,
    coalesce(rescued, 0) AS rescued,
    coalesce(spoiled, 0) AS spoiled,
    unanswered,
    truncated,
    completion_tokens
FROM whole
JOIN taught USING (question_id)
LEFT JOIN paths USING (question_id)
LEFT JOIN judged USING (question_id)
ORDER BY question_id;
