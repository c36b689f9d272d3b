-- Characters of the chosen and the rejected text of all pairs: mean, quartiles, and how often the
-- chosen one is longer, which is what a model may learn in place of what it should.
WITH sizes AS (
    SELECT question_id, node_id, depth, length(text) AS size FROM nodes
),
compared AS (
    SELECT pairs.role, chosen.depth, chosen.size AS chosen, rejected.size AS rejected
    FROM pairs
    JOIN sizes AS chosen
        ON chosen.question_id = pairs.question_id AND chosen.node_id = pairs.chosen_id
    JOIN sizes AS rejected
        ON rejected.question_id = pairs.question_id AND rejected.node_id = pairs.rejected_id
)
SELECT
    role,
    count(*) AS pairs,
    avg(chosen) AS chosen_mean,
    avg(rejected) AS rejected_mean,
    quantile_disc(chosen, 0.25) AS chosen_q1,
    quantile_disc(chosen, 0.5) AS chosen_median,
    quantile_disc(chosen, 0.75) AS chosen_q3,
    quantile_disc(rejected, 0.25) AS rejected_q1,
    quantile_disc(rejected, 0.5) AS rejected_median,
    quantile_disc(rejected, 0.75) AS rejected_q3,
    avg((chosen > rejected)::DOUBLE) AS chosen_longer
FROM compared
GROUP BY role
ORDER BY min(depth)
