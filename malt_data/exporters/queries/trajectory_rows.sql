-- Rows of trajectory: a correct path as one completion, to distil a team into one model
-- (MALT §A.8.2). The prompt is the generator's.
SELECT
    prompts.prompt,
    [{
        'role': 'assistant',
        'content': concat_ws(chr(10) || chr(10), generator.text, verifier.text, leaf.text)
    }] AS completion,
    ledger.question_id,
    ledger.node_id,
    leaf.value,
    ledger.validation
FROM ledger
JOIN prompts ON prompts.key = ledger.prompt_key
JOIN keyed AS leaf ON leaf.key = ledger.key
JOIN keyed AS verifier ON verifier.key = ledger.verifier
JOIN keyed AS generator ON generator.key = ledger.generator
WHERE ledger.reason IS NULL
