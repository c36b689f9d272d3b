-- Accuracy after each turn (MALT, Figure 3): of single passes, and (voted) of the vote over all
-- passes of a question if each ended there.
CREATE VIEW turn_accuracy AS
WITH single AS (
    SELECT
        setting,
        turn,
        any_value(role) AS role,
        count(*) AS passes,
        avg(correct::DOUBLE) AS accuracy
    FROM turns
    GROUP BY setting, turn
),
elected AS (
    SELECT setting, turn, avg(correct::DOUBLE) AS voted
    FROM ballots
    WHERE voters = passes
    GROUP BY setting, turn
)
SELECT *
FROM single
LEFT JOIN elected USING (setting, turn)
ORDER BY setting, turn;
