-- Statistics of each role, in the order of their first turns. seconds: the sum of latencies, which
-- exceeds the wall-clock time if completions run in parallel. mean_value and accuracy are of the base
-- of the trees; the rest counts all nodes, `extra` those that an adaptive build added.
CREATE VIEW role_stats AS
WITH siblings AS (
    SELECT
        role::VARCHAR AS role,
        question_id,
        parent,
        count(*) FILTER (label) AS positives,
        count(*) FILTER (NOT label) AS negatives
    FROM nodes
    GROUP BY ALL
),
-- As many as `pairs` has, without listing them.
usable AS (
    SELECT
        role,
        sum(positives * negatives)::BIGINT AS pairs,
        count(*) FILTER (positives > 0 AND negatives > 0) AS parents
    FROM siblings
    GROUP BY role
)
SELECT
    n.role::VARCHAR AS role,
    count(*) AS nodes,
    count(*) FILTER (n.label) AS positives,
    count(*) FILTER (NOT n.label) AS negatives,
    avg(n.value) FILTER (n.base) AS mean_value,
    avg(n.correct::DOUBLE) FILTER (n.base) AS accuracy,
    coalesce(any_value(usable.pairs), 0) AS usable_pairs,
    coalesce(any_value(usable.parents), 0) AS parents_with_pairs,
    coalesce(sum(n.prompt_tokens), 0)::BIGINT AS prompt_tokens,
    coalesce(sum(n.completion_tokens), 0)::BIGINT AS completion_tokens,
    sum(n.latency) AS seconds,
    count(*) FILTER (n.finish_reason = 'length') AS truncated,
    count(*) FILTER (n.answer IS NULL) AS unanswered,
    count(*) FILTER (n.verdict = 'timeout') AS grading_timeouts,
    count(*) FILTER (NOT n.base) AS extra
FROM marked AS n
LEFT JOIN usable ON usable.role = n.role::VARCHAR
GROUP BY n.role
ORDER BY min(n.depth);
