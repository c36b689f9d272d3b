-- Rows of trajectory: a correct path as one completion, to distil a team into one model
-- (MALT §A.8.2). The prompt is that of the first turn. Thinking is left out, as it would stand before
-- one of several texts. rows.py fills in what it says of each turn.
SELECT
    prompts.prompt,
    said(concat_ws(chr(10) || chr(10), {texts}), NULL) AS completion,
    ledger.question_id,
    ledger.node_id,
    {leaf}.value,
    ledger.validation
FROM ledger
JOIN prompts ON prompts.key = ledger.prompt_key
JOIN keyed AS {leaf} ON {leaf}.key = ledger.key
{found}
WHERE ledger.reason IS NULL
