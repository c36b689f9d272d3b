-- One row per parent: the messages that its children were sampled with. rows.py replaces
-- {messages} by a CASE over the kinds that concatenates template literals and these columns.
CREATE OR REPLACE TEMP TABLE prompts AS
WITH parents AS (
    SELECT DISTINCT root AS key, question_id, NULL AS initial_answer, NULL AS verification
    FROM keyed
    WHERE depth = 1 AND $parent_depth = 0
    UNION ALL
    SELECT key, question_id, text, NULL
    FROM keyed
    WHERE depth = 1 AND $parent_depth = 1
    UNION ALL
    SELECT verifier.key, verifier.question_id, generator.text, verifier.text
    FROM keyed AS verifier
    JOIN keyed AS generator ON generator.key = verifier.parent
    WHERE verifier.depth = 2 AND generator.depth = 1 AND $parent_depth = 2
)
SELECT parents.key, {messages} AS prompt
FROM parents
JOIN questions USING (question_id)
WHERE parents.key IN (SELECT prompt_key FROM ledger WHERE reason IS NULL)
