-- What the turns after the first do to its answer (MALT, Figure 2): shares of all passes.
CREATE VIEW flips AS
WITH ends AS (
    SELECT
        setting,
        arg_min(correct, turn) AS first_right,
        arg_max(correct, turn) AS last_right
    FROM turns
    GROUP BY setting, seed, question_id, pass
    HAVING count(*) > 1
)
SELECT
    setting,
    count(*) AS passes,
    avg((NOT first_right AND last_right)::DOUBLE) AS wrong_to_right,
    avg((first_right AND NOT last_right)::DOUBLE) AS right_to_wrong
FROM ends
GROUP BY setting
ORDER BY setting;
