-- Accuracy of the vote over the first 1, 3, 5, … and over all passes of a setting, from the same
-- samples. In a debate the passes are the agents, which have seen each other's answers.
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
