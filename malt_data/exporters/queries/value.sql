-- Rows of value: every node with its value as a scalar reward (MALT §A.8.1).
SELECT
    prompts.prompt,
    [{'role': 'assistant', 'content': node.text}] AS completion,
    ledger.question_id,
    ledger.node_id,
    node.value,
    ledger.validation
FROM ledger
JOIN prompts ON prompts.key = ledger.prompt_key
JOIN keyed AS node ON node.key = ledger.key
WHERE ledger.reason IS NULL
