"""Votes and ties, against a brute-force definition."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_data.errors import SpecError
from malt_data.evaluation.play import Turn
from malt_data.evaluation.settings import Setting, find
from malt_data.evaluation.vote import ballots, majority

ANSWERS = st.lists(st.sampled_from(["1", "2", "3", None]), max_size=9)


@given(ANSWERS)
def test_the_majority_wins_and_a_tie_goes_to_the_first(answers: list[str | None]) -> None:
    given_ = [answer for answer in answers if answer is not None]
    found = majority(answers, lambda a, b: a == b)
    if not given_:
        assert found is None
        return
    counts = Counter(given_)
    best = {answer for answer, n in counts.items() if n == max(counts.values())}
    assert found == next(answer for answer in given_ if answer in best)


@given(ANSWERS, st.permutations(["1", "2", "3"]))
def test_names_of_answers_do_not_matter(answers: list[str | None], names: list[str]) -> None:
    renamed = dict(zip(["1", "2", "3"], names, strict=True)) | {None: None}
    found = majority([renamed[a] for a in answers], lambda a, b: a == b)  # type: ignore[index]
    assert found == renamed[majority(answers, lambda a, b: a == b)]  # type: ignore[index]


def test_equal_answers_in_other_words_are_one() -> None:
    same = {frozenset({"7", "7.0"})}
    found = majority(["8", "7", "7.0"], lambda a, b: a == b or frozenset({a, b}) in same)
    assert found == "7"


def turn(passed: int, place: int, role: str, answer: str | None) -> Turn:
    return Turn(passed, place, role, None, (), None, answer, 0.0)  # type: ignore[arg-type]


def test_a_pass_answers_what_its_last_turn_says() -> None:
    setting = find(["ma+mv"])[0]
    turns = [turn(1, 0, "generator", "4"), turn(0, 2, "refiner", "9"), turn(0, 0, "generator", "1"),
             turn(1, 2, "refiner", None), turn(0, 1, "verifier", "5")]  # fmt: skip
    assert ballots(setting, turns) == ["9", None]


def test_a_verifier_without_an_answer_leaves_the_generators() -> None:
    setting = find(["malt-gv"])[0]
    kept = [turn(0, 0, "generator", "4"), turn(0, 1, "verifier", None)]
    changed = [turn(0, 0, "generator", "4"), turn(0, 1, "verifier", "5")]
    assert ballots(setting, kept) == ["4"]
    assert ballots(setting, changed) == ["5"]


def test_settings_by_name(tmp_path: object) -> None:
    assert find(["sa+mv"])[0] == Setting(name="sa+mv", turns=("generator",), votes=3)
    assert [s.name for s in find(["sa", "sa", "ma"])] == ["sa", "ma"]
    with pytest.raises(SpecError, match=r"no setting 'moa'.*debate"):
        find(["moa"])
