-- One row per leaf: the whole path from the first turn to the last (MALT §4.1), as lists in the
-- order of the turns. `schemas/paths.py` fills in the turns of the forest.
CREATE VIEW trajectories AS
SELECT
    {leaf}.question_id,
    {leaf}.node_id AS leaf_id,
    [{turns}.node_id] AS node_ids,
    [{turns}.role::VARCHAR] AS roles,
    [{turns}.text] AS texts,
    [{turns}.answer] AS answers,
    {leaf}.answer,
    {leaf}.reward
FROM nodes AS {leaf}
{above}
WHERE {leaf}.reward IS NOT NULL;
