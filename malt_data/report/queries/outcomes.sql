-- How each setting did on each question: right answers, of how many seeds, and the first seed's
-- answer after the vote.
SELECT
    setting,
    question_id AS id,
    count(*) FILTER (correct) AS right,
    count(*) AS seeds,
    arg_min({'answer': answer}, seed).answer AS answer
FROM predictions
GROUP BY setting, question_id
ORDER BY setting, id
