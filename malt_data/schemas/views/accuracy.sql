-- Accuracy and cost of each setting over all its seeds and questions; costs are per question.
CREATE VIEW accuracy AS
SELECT
    setting,
    count(DISTINCT seed) AS seeds,
    count(DISTINCT question_id) AS questions,
    avg(coalesce(correct, false)::DOUBLE) AS accuracy,
    avg((answer IS NULL)::DOUBLE) AS unanswered,
    avg(prompt_tokens) AS prompt_tokens,
    avg(completion_tokens) AS completion_tokens,
    avg(seconds) AS seconds
FROM predictions
GROUP BY setting
ORDER BY setting;
