-- The nodes, and whether each is of the base of its tree: no node marked `extra` is at or above it.
-- Estimates rest on these, as extras were sampled because of what had been seen.
CREATE VIEW marked AS
WITH RECURSIVE added AS (
    SELECT question_id, node
    FROM nodes
    WHERE extra
    UNION
    SELECT below.question_id, below.node
    FROM nodes AS below
    JOIN added ON below.question_id = added.question_id AND below.parent = added.node
)
SELECT nodes.*, added.node IS NULL AS base
FROM nodes
LEFT JOIN added ON added.question_id = nodes.question_id AND added.node = nodes.node;
