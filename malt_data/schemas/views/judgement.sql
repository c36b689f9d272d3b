-- How a text judges the answer before it: accepts, rejects or unclear. Used by both `verdicts`.
--
-- If it gives an answer, the same answer accepts and another one rejects. Otherwise its
-- wording decides: Yes, No, Correct, Incorrect, … at the start, or "is correct", "is not right",
-- "is wrong", … in the first or last sentence. Contradictions, questions and conditions are
-- unclear.

-- The text after the model's reasoning, without leading Markdown.
CREATE MACRO spoken(said) AS
    regexp_replace(
        regexp_replace(regexp_replace(said, '(?s)^.*</think>', ''), '(?s)<think>.*$', ''),
        '^[\s*_#>"''`-]+', ''
    );

-- An answer normalised for comparison: the letter of a choice, or the value of a number.
CREATE MACRO plain(answer, lettered) AS
    CASE
        WHEN lettered AND regexp_matches(answer, '^\W*[A-Za-z](?:[.):,]|\W*$)')
            THEN upper(regexp_extract(answer, '[A-Za-z]'))
        ELSE coalesce(
            TRY_CAST(regexp_replace(answer, '[$,\s]', '', 'g') AS DOUBLE)::VARCHAR,
            lower(trim(answer))
        )
    END;

CREATE MACRO opening(said) AS
    CASE
        WHEN regexp_matches(said, '(?i)^(yes\b|correct[*_]*\s*([.,;:!\n]|$))') THEN 'accepts'
        WHEN regexp_matches(said, '(?i)^(no|incorrect|wrong)[*_]*\s*([.,;:!\n]|—|$)') THEN 'rejects'
    END;

CREATE MACRO affirms(said) AS
    regexp_matches(
        said,
        '(?i)\b(is|are|was|were|seems|looks)(\s+\w+ly|\s+also|\s+indeed)?'
        || '\s+(correct|right|accurate)\b'
    );

CREATE MACRO sentence(said) AS
    CASE
        WHEN regexp_matches(said, '(?i)\?|\b(if|whether|nothing|none|no|neither|nor)\b') THEN NULL
        WHEN regexp_matches(
            said,
            '(?i)\b(is|are|was|were|seems|looks)(n[''’]t|\s+not)(\s+\w+ly|\s+quite)?'
            || '\s+(correct|right|accurate)\b'
            || '|\b(is|are|was|were|seems|looks)(\s+\w+ly|\s+also)?\s+(incorrect|wrong|inaccurate)\b'
        ) THEN if(affirms(said), 'unclear', 'rejects')
        WHEN affirms(said) THEN 'accepts'
    END;

CREATE MACRO first_of(found) AS if(len(found) = 1, found[1], 'unclear');

CREATE MACRO in_words(said) AS
    first_of(
        list_distinct([
            opening(said),
            sentence(regexp_extract(said, '^[^.!?\n]*[.!?]?')),
            sentence(regexp_extract(said, '([^.!?\n]*[.!?]?)[\s*_]*$', 1))
        ])
    );

CREATE MACRO judgement(said, answer, correct, before, before_correct, lettered) AS
    CASE
        WHEN answer IS NULL THEN in_words(spoken(said))
        WHEN before IS NULL OR coalesce(correct, false) <> coalesce(before_correct, false)
            THEN 'rejects'
        WHEN correct OR plain(answer, lettered) = plain(before, lettered) THEN 'accepts'
        ELSE 'rejects'
    END;
