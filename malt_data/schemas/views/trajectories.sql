-- One row per leaf: the whole path question → generator → verifier → refiner (MALT §4.1).
CREATE VIEW trajectories AS
SELECT
    leaf.question_id,
    generator.node_id AS generator_id,
    verifier.node_id AS verifier_id,
    leaf.node_id AS refiner_id,
    generator.text AS generator_text,
    verifier.text AS verifier_text,
    leaf.text AS refiner_text,
    leaf.answer,
    leaf.reward
FROM nodes AS leaf
JOIN nodes AS verifier
    ON verifier.question_id = leaf.question_id AND verifier.depth = 2
    AND verifier.g = leaf.g AND verifier.v = leaf.v
JOIN nodes AS generator
    ON generator.question_id = leaf.question_id AND generator.depth = 1
    AND generator.g = leaf.g
WHERE leaf.depth = 3;
