-- One row per leaf: the whole path from the first turn to the last (MALT §4.1), as lists in the
-- order of the turns.
CREATE VIEW trajectories AS
WITH RECURSIVE paths AS (
    SELECT question_id, node AS leaf, node, parent
    FROM nodes
    WHERE reward IS NOT NULL
    UNION ALL
    SELECT paths.question_id, paths.leaf, above.node, above.parent
    FROM paths
    JOIN nodes AS above
        ON above.question_id = paths.question_id AND above.node = paths.parent
)
SELECT
    question_id,
    last(node_id ORDER BY depth) AS leaf_id,
    list(node_id ORDER BY depth) AS node_ids,
    list(role::VARCHAR ORDER BY depth) AS roles,
    list(text ORDER BY depth) AS texts,
    list(nodes.answer ORDER BY depth) AS answers,
    last(nodes.answer ORDER BY depth) AS answer,
    last(reward ORDER BY depth) AS reward
FROM paths
JOIN nodes USING (question_id, node)
GROUP BY question_id, leaf;
