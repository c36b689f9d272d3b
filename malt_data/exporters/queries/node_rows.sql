-- Rows of sft (MALT, Algorithm 1), value (§A.8.1) and kto: a node's text and value.
-- The ledger selects the nodes, the format the columns, and rows.py what is `said`.
SELECT
    prompts.prompt,
    said(node.text, node.thinking) AS completion,
    node.label,
    ledger.question_id,
    ledger.node_id,
    node.value,
    ledger.validation
FROM ledger
JOIN prompts ON prompts.key = ledger.prompt_key
JOIN keyed AS node ON node.key = ledger.key
WHERE ledger.reason IS NULL
