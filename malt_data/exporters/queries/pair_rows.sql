-- Rows of dpo: the pairs of a role (MALT §4.3). The label conditions below are redundant, but spare
-- each join half of the texts.
SELECT
    prompts.prompt,
    said(chosen.text, chosen.thinking) AS chosen,
    said(rejected.text, rejected.thinking) AS rejected,
    ledger.question_id,
    ledger.chosen_id,
    ledger.rejected_id,
    chosen.value AS chosen_value,
    rejected.value AS rejected_value,
    ledger.validation
FROM ledger
JOIN prompts ON prompts.key = ledger.prompt_key
JOIN keyed AS chosen ON chosen.key = ledger.chosen
JOIN keyed AS rejected ON rejected.key = ledger.rejected
WHERE ledger.reason IS NULL AND chosen.label AND NOT rejected.label
