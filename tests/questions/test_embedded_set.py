"""The embedded questions are correct, varied and split without overlap."""

import operator
import re
from collections import Counter

from malt_data.questions.loading import load_questions
from malt_data.schemas.forest import Question

OPERATIONS = {
    "+": operator.add, "plus": operator.add, "-": operator.sub, "minus": operator.sub,
    "*": operator.mul, "times": operator.mul,
}  # fmt: skip


def all_questions() -> list[Question]:
    return [
        q for split in ("train", "test") for q in load_questions("embedded", split=split).questions
    ]


def test_it_is_large_varied_and_every_row_is_usable() -> None:
    splits = {split: load_questions("embedded", split=split) for split in ("train", "test")}
    assert all(loaded.refused == [] for loaded in splits.values())
    assert len(splits["train"].questions) >= 150
    assert len(splits["test"].questions) >= 60
    for loaded in splits.values():
        assert {q.kind for q in loaded.questions} == {"numeric", "choice", "math"}


def test_no_question_occurs_twice_or_in_both_splits() -> None:
    assert Counter(q.question_id for q in all_questions()).most_common(1)[0][1] == 1


def test_sums_differences_and_products_are_correct() -> None:
    checked = 0
    for question in all_questions():
        if match := re.fullmatch(r"What is (\d+) (\S+) (\d+)\?", question.question):
            left, sign, right = match.groups()
            assert int(question.gold) == OPERATIONS[sign](int(left), int(right)), question
            checked += 1
    assert checked > 60


def test_the_first_questions_are_of_all_kinds() -> None:
    kinds = Counter(q.kind for q in load_questions("embedded", limit=16).questions)
    assert len(kinds) == 3
