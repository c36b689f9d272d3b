-- Candidates of trajectory: every leaf with the path above it (MALT §A.8.2). rows.py fills in what
-- it says of each turn.
SELECT
    {leaf}.key, {leaf}.parent, {leaf}.question_id, {leaf}.node_id, {leaf}.label, {leaf}.sure,
    {keys}
    {truncated} AS truncated,
    {leaf}.key IN (FROM ungraded) AS ungraded,
    hash({texts}) AS text,
    {leaf}.node AS place,
    md5($seed || ':' || {leaf}.node_id) AS draw
FROM keyed AS {leaf}
{above}
WHERE list_contains($depths, {leaf}.depth)
