"""Multiple choice: answers by letter or by text."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_data.graders import choice

ROOMS = ["kitchen", "garden shed", "attic", "shed", "play-room"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("D", "D"),
        ("d", "D"),
        ("(D)", "D"),
        ("[D]", "D"),
        ("D.", "D"),
        ("**D**", "D"),
        (r"\text{D}", "D"),
        (r"\boxed{D}", "D"),
        ("$D$", "D"),
        ("D: shed", "D"),
        ("D. shed", "D"),
        ("D) shed.", "D"),
        ("(D) shed", "D"),
        ("(d) shed", "D"),
        ("D shed", "D"),
        ("D - shed", "D"),
        ("shed (D)", "D"),
        ("D, not A", "D"),
        ("D because tools belong there", "D"),
        ("D. That is where tools belong.", "D"),
        ("D is the correct one", "D"),
        ("D?", "D"),
        ("option D", "D"),
        ("The correct answer is D", "D"),
        ("So the best choice is (D).", "D"),
        ("shed", "D"),
        ("Garden  Shed", "B"),
        ("play room", "E"),
        ('"attic".', "C"),
        ("A", "A"),
    ],
)
def test_an_answer_that_identifies_one_choice(answer: str, letter: str) -> None:
    assert choice.letter_of(answer, ROOMS) == letter


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "F",
        "A or B",
        "A and B",
        "A, B",
        "D: attic",
        "attic (D)",
        "A. Because D is wrong.",
        "A shed is where tools are kept",
        "a shed",
        "D is wrong",
        "not D",
        "Dinosaur",
        "None of the above",
        "the shed in the garden",
        "I would go with B",
        "Answer",
        "D" * 600,
    ],
)
def test_an_answer_that_identifies_none_or_several(answer: str) -> None:
    assert choice.letter_of(answer, ROOMS) is None


def test_a_text_shared_by_two_choices_identifies_neither() -> None:
    assert choice.letter_of("bar", ["bar", "pub", "bar"]) is None
    assert choice.letter_of("A: bar", ["bar", "pub", "bar"]) == "A"


def test_choices_may_be_numbers() -> None:
    assert choice.letter_of("15", ["10", "15", "20"]) == "B"
    assert choice.letter_of("B: 20", ["10", "15", "20"]) is None


@given(st.integers(1, 26), st.data())
def test_every_letter_for_any_number_of_choices(count: int, data: st.DataObject) -> None:
    choices = [f"thing {i}" for i in range(count)]
    index = data.draw(st.integers(0, count - 1))
    letter = string.ascii_uppercase[index]
    for answer in (letter, f"({letter})", f"{letter}. {choices[index]}", choices[index]):
        assert choice.equal(answer, letter, choices)
    if count < 26:
        assert choice.letter_of(string.ascii_uppercase[count], choices) is None


@given(st.text(max_size=600), st.lists(st.text(max_size=20), max_size=30))
def test_no_text_raises(text: str, choices: list[str]) -> None:
    letter = choice.letter_of(text, choices)
    assert letter is None or ord(letter) - ord("A") < len(choices)
