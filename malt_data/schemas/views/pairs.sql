-- Every pair of siblings with different labels, without any cap (MALT §4.3). Joins on the place in
-- the tree, because a join on the string parent_id takes four times as long.
CREATE VIEW pairs AS
SELECT
    chosen.role::VARCHAR AS role,
    chosen.parent_id,
    chosen.question_id,
    chosen.node_id AS chosen_id,
    rejected.node_id AS rejected_id,
    chosen.value AS chosen_value,
    rejected.value AS rejected_value
FROM nodes AS chosen
JOIN nodes AS rejected
    ON rejected.question_id = chosen.question_id
    AND coalesce(rejected.parent, -1) = coalesce(chosen.parent, -1)
WHERE chosen.label AND NOT rejected.label;
