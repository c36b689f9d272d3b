-- Accuracy after each turn, before any vote (MALT, Figure 3).
CREATE VIEW turn_accuracy AS
SELECT setting, turn, any_value(role) AS role, count(*) AS passes, avg(correct::DOUBLE) AS accuracy
FROM turns
GROUP BY setting, turn
ORDER BY setting, turn;
