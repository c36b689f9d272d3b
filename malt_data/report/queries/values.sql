-- How the values of each role are distributed, in 20 bins; the last one includes 1.
SELECT
    role::VARCHAR AS role,
    least(floor(value * 20), 19) / 20 AS bin,
    count(*) FILTER (label) AS positives,
    count(*) FILTER (NOT label) AS negatives
FROM nodes
GROUP BY ALL
ORDER BY min(depth), bin
