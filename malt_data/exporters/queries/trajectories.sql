-- Candidates of trajectory: every leaf with the path above it (MALT §A.8.2).
SELECT
    leaf.key, leaf.parent, leaf.question_id, leaf.node_id, leaf.label,
    verifier.key AS verifier,
    generator.key AS generator,
    leaf.truncated OR verifier.truncated OR generator.truncated AS truncated,
    leaf.key IN (FROM ungraded) AS ungraded,
    hash(leaf.text, verifier.text, generator.text) AS text,
    (leaf.key & (1::BIGINT << 45) - 1) AS place,
    md5($seed || ':' || leaf.node_id) AS draw
FROM keyed AS leaf
JOIN keyed AS verifier ON verifier.key = leaf.parent
JOIN keyed AS generator ON generator.key = verifier.parent
WHERE leaf.depth = $depth
