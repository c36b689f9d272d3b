-- Candidates of dpo: every pair of siblings with different labels (the view `pairs`, MALT §4.3).
WITH siblings AS (
    SELECT
        key, parent, question_id, node_id, label, value, truncated, sample, sure,
        key IN (FROM ungraded) AS ungraded,
        hash(text) AS text
    FROM keyed
    WHERE list_contains($depths, depth)
)
SELECT
    chosen.key AS chosen,
    rejected.key AS rejected,
    chosen.parent,
    chosen.question_id,
    chosen.node_id AS chosen_id,
    rejected.node_id AS rejected_id,
    chosen.value AS chosen_value,
    rejected.value AS rejected_value,
    chosen.truncated,
    chosen.ungraded OR rejected.ungraded AS ungraded,
    least(chosen.sure, rejected.sure) AS sure,
    chosen.text AS chosen_text,
    rejected.text AS rejected_text,
    chosen.sample * 32768 + rejected.sample AS place,
    md5($seed || ':' || chosen.node_id || ' ' || rejected.node_id) AS draw
FROM siblings AS chosen
JOIN siblings AS rejected USING (parent)
WHERE chosen.label AND NOT rejected.label
