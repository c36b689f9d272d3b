-- Whom the trees reward: how often a right answer's label is positive, and a wrong one's, for each
-- role that does not judge, in the base of the trees. A label is that of the mean of the leaves, so
-- it follows the answer only as far as the later turns do. No answer, and one that could not be
-- graded, counts as wrong, as elsewhere.
CREATE VIEW credit AS
SELECT
    n.role::VARCHAR AS role,
    count(*) FILTER (n.correct) AS right_answers,
    avg(n.label::DOUBLE) FILTER (n.correct) AS positive_if_right,
    count(*) FILTER (n.correct IS NOT true) AS wrong_answers,
    avg(n.label::DOUBLE) FILTER (n.correct IS NOT true) AS positive_if_wrong
FROM marked AS n
JOIN roles ON roles.role = n.role::VARCHAR AND NOT roles.judges
WHERE n.base
GROUP BY n.role
ORDER BY min(n.depth);
