-- The questions, with choices formatted as in a prompt: one line each, "A. bank".
CREATE TEMP TABLE questions AS
SELECT
    question_id,
    kind,
    question,
    coalesce(
        array_to_string(
            list_transform(choices, lambda text, place: chr(64 + place::INTEGER) || '. ' || text),
            chr(10)
        ),
        ''
    ) AS choices,
    left(md5($seed || ':' || question_id), 8) < $border AS validation
FROM stored_questions
