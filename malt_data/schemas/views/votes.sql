-- Accuracy with the vote of the first 1, 3, 5, … and of all passes of a setting, out of the same
-- samples. In a debate the passes are the agents, who have heard each other.
CREATE VIEW votes AS
SELECT
    setting,
    voters AS votes,
    count(*) AS units,
    avg(correct::DOUBLE) AS accuracy
FROM ballots
SEMI JOIN (SELECT setting, max(turn) AS turn FROM turns GROUP BY setting) USING (setting, turn)
GROUP BY setting, voters
ORDER BY setting, voters;
