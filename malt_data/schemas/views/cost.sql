-- Accuracy and cost per question of each setting, and its cost as a multiple of the baseline's: the
-- single agent ('sa'), or the cheapest setting if 'sa' was not evaluated. Completions that settings
-- share count for each of them. Training is not included.
CREATE VIEW cost AS
WITH counted AS (
    SELECT setting, count(*) AS completions
    FROM completions
    SEMI JOIN predictions USING (setting, seed, question_id) -- not of an evaluation that still runs
    GROUP BY setting
),
units AS (
    SELECT setting, count(*) AS units
    FROM predictions
    GROUP BY setting
),
each AS (
    SELECT
        setting,
        accuracy,
        completions / units AS completions,
        prompt_tokens,
        completion_tokens,
        prompt_tokens + completion_tokens AS tokens,
        seconds
    FROM accuracy
    JOIN counted USING (setting)
    JOIN units USING (setting)
),
baseline AS (
    FROM each
    ORDER BY setting = 'sa' DESC, tokens NULLS LAST, completions, setting
    LIMIT 1
)
SELECT
    each.*,
    baseline.setting AS baseline,
    each.completions / baseline.completions AS completions_ratio,
    each.prompt_tokens / nullif(baseline.prompt_tokens, 0) AS prompt_tokens_ratio,
    each.completion_tokens / nullif(baseline.completion_tokens, 0) AS completion_tokens_ratio,
    each.tokens / nullif(baseline.tokens, 0) AS tokens_ratio,
    each.seconds / nullif(baseline.seconds, 0) AS seconds_ratio
FROM each, baseline
ORDER BY each.setting;
