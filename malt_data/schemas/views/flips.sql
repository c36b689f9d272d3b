-- Answers that change from wrong to right and from right to wrong, as shares of `passes`.
-- base null: within a pass, from its first turn to its last. base a setting: from its voted answer
-- to this setting's on the same question and seed (MALT, Figure 2), which `passes` then counts.
CREATE VIEW flips AS
WITH ends AS (
    SELECT
        setting,
        NULL::VARCHAR AS base,
        arg_min(correct, turn) AS before,
        arg_max(correct, turn) AS after
    FROM turns
    GROUP BY setting, seed, question_id, pass
    HAVING count(*) > 1
),
pairs AS (
    SELECT
        after.setting,
        before.setting AS base,
        coalesce(before.correct, false) AS before,
        coalesce(after.correct, false) AS after
    FROM predictions AS before
    JOIN predictions AS after USING (seed, question_id)
    WHERE before.setting <> after.setting
)
SELECT
    setting,
    base,
    count(*) AS passes,
    avg((NOT before AND after)::DOUBLE) AS wrong_to_right,
    avg((before AND NOT after)::DOUBLE) AS right_to_wrong
FROM (FROM ends UNION ALL FROM pairs)
GROUP BY setting, base
ORDER BY setting, base NULLS FIRST;
