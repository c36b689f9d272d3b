-- What the list of trees shows and filters by: the facts of each tree and its question.
SELECT
    trees.question_id AS id,
    question,
    choices,
    gold,
    source,
    outcome,
    value,
    nodes,
    pairs,
    turns_with_pairs,
    misled,
    rescued,
    spoiled,
    unanswered,
    truncated
FROM trees
JOIN questions ON questions.question_id = trees.question_id
WHERE trees.question_id <= $1
ORDER BY id
