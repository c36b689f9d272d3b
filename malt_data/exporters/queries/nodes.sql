-- Candidates of sft, kto and value: the nodes of one role. Texts are compared by their hash,
-- which is never stored.
SELECT
    key, parent, question_id, node_id, label, truncated,
    key IN (FROM ungraded) AS ungraded,
    hash(text) AS text,
    sure,
    sample AS place,
    md5($seed || ':' || node_id) AS draw
FROM keyed
WHERE list_contains($depths, depth)
