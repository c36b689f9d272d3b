-- Characters of the chosen and the rejected text of all pairs: mean, quartiles, and how often the
-- chosen one is longer, which is what a model may learn in place of what it should.
WITH sizes AS (
    SELECT role::VARCHAR AS role, question_id, parent, depth, label, length(text) AS size FROM nodes
),
-- The pairs of the view `pairs`, which would have to be joined by their ids.
compared AS (
    SELECT chosen.role, chosen.depth, chosen.size AS chosen, rejected.size AS rejected
    FROM sizes AS chosen
    JOIN sizes AS rejected
        ON rejected.question_id = chosen.question_id
        AND coalesce(rejected.parent, -1) = coalesce(chosen.parent, -1)
    WHERE chosen.label AND NOT rejected.label
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
