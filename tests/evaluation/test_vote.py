"""Votes and ties, against a brute-force definition."""

import re
from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_data.errors import SpecError
from malt_data.evaluation.settings import Setting, find_settings
from malt_data.evaluation.vote import ballots, by_turn, majority
from malt_data.graders import choice
from malt_data.schemas.pipeline import Pipeline, shipped

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
def test_the_vote_does_not_depend_on_the_labels_of_answers(
    answers: list[str | None], names: list[str]
) -> None:
    renamed = dict(zip(["1", "2", "3"], names, strict=True)) | {None: None}
    found = majority([renamed[a] for a in answers], lambda a, b: a == b)
    assert found == renamed[majority(answers, lambda a, b: a == b)]


def test_equal_answers_in_different_wordings_count_together() -> None:
    same = {frozenset({"7", "7.0"})}
    found = majority(["8", "7", "7.0"], lambda a, b: a == b or frozenset({a, b}) in same)
    assert found == "7"


def test_the_answer_of_a_pass_is_that_of_its_last_turn() -> None:
    turns = [(1, 0, "generator", "4"), (0, 2, "refiner", "9"), (0, 0, "generator", "1"),
             (1, 2, "refiner", None), (0, 1, "verifier", "5")]  # fmt: skip
    assert ballots(turns, ("verifier",)) == ["9", None]


def test_a_judge_without_an_answer_keeps_the_one_before() -> None:
    for said, kept, kept_if_not_judging in (("5", "5", "5"), (None, "4", None)):
        turns = [(0, 0, "solver", "4"), (0, 1, "critic", said)]
        assert ballots(turns, ("critic",)) == [kept]
        assert ballots(turns, ()) == [kept_if_not_judging]
    assert by_turn([(0, 0, "critic", None)], ("critic",)) == [[None]]


def test_different_wordings_of_a_choice_count_together() -> None:
    choices = ["sky", "ice", "water", "ground"]

    def same(one: str, other: str) -> bool:
        return choice.equal(one, other, choices)

    for words in permutations(["D", "D. ground", "(D) ground", "ground"]):
        assert majority(["A", *words], same) == words[0]
    for one, other in permutations(["A", "D", "D. ground", "(D) ground", "ground", "sky", "?"], 2):
        assert same(one, other) is same(other, one)


def test_settings_by_name() -> None:
    assert find_settings(["sa+mv"])[0] == Setting(name="sa+mv", turns=("generator",), votes=3)
    assert [s.name for s in find_settings(["sa", "sa", "ma"])] == ["sa", "ma"]
    with pytest.raises(SpecError, match=r"Unknown setting 'moa'.*debate"):
        find_settings(["moa"])


def test_turns_are_a_number_a_list_of_names_or_all_of_the_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[all]\n[two]\nturns = 2\n[own]\nturns = ["solver", "again", "again"]\n'
                    '[base]\nbase = ["solver"]\n')  # fmt: skip
    turns = [{"role": "solver"}, {"role": "critic"}, {"role": "solver", "prompt": "again"}]
    pipeline = Pipeline(turns=turns)
    found = find_settings(["all", "two", "own", "base", "sa"], path, pipeline)
    assert [setting.turns for setting in found] == [
        ("solver", "critic", "again"),
        ("solver", "critic"),
        ("solver", "again", "again"),
        ("solver", "critic", "again"),
        ("solver",),
    ]
    (own,) = find_settings(["base"], path, pipeline)
    team = {"team": {"solver": "s", "critic": "c"}}
    trained = own.model_copy(update={"adapters": "team"})
    assert [trained.adapter(role, team) for role in ("solver", "critic")] == [None, "c"]
    assert [setting.turns for setting in find_settings(["ma", "malt-gv", "malt-gr"])] == [
        ("generator", "verifier", "refiner"),
        ("generator", "verifier"),
        ("generator", "refiner"),
    ]
    assert find_settings(["ma"], pipeline=shipped("malt2"))[0].turns == (
        "generator", "verifier", "refiner", "verifier", "refiner"
    )  # fmt: skip
    with pytest.raises(SpecError, match=r"Setting malt-gv: turns = 2, .* turns 1 to 1: generator"):
        find_settings(["malt-gv"], pipeline=shipped("generator"))
    with pytest.raises(SpecError, match="Setting malt-base-v: No turn has the role 'verifier'"):
        find_settings(["malt-base-v"], pipeline=shipped("refine"))


def test_a_custom_setting_is_validated(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[mine]\nname = "sa"\nturns = ["refiner", "generator"]\nvotes = 5\n')
    assert [(s.name, s.votes) for s in find_settings(["sa", "mine"], path)] == [
        ("sa", 1),
        ("mine", 5),
    ]
    for text, message in [
        ("mine = 3", "write [mine]"),
        ("[[mine]]", "write [mine]"),
        (
            '[mine]\nturns = ["judge"]',
            "Setting mine: The pipeline has no turn 'judge'. Its turns: "
            "generator, verifier, refiner.",
        ),
        ("[mine]\nturns = []", "turns: "),
        ('[mine]\nturns = "refiner"', "turns: "),
        ("[mine]\nturns = true", "turns: "),
        ("[mine]\nturns = 0", "turns = 0, but the pipeline has turns 1 to 3: generator, verifier"),
        ("[mine]\nturns = 4", "turns = 4, but the pipeline has turns 1 to 3"),
        ('[mine]\nbase = ["refinr"]', "Did you mean refiner?"),
        ("[mine]\nagents = 3", "a debate (agents > 1) needs turns = 1"),
        ("[mine]\nturns = 1\nrounds = 3", "rounds need agents"),
        ("[mine]\nhats = 6", "unknown setting 'hats'"),
    ]:
        path.write_text(text)
        with pytest.raises(SpecError, match=re.escape(message)):
            find_settings(["mine"], path)
    with pytest.raises(SpecError, match="and no votes"):
        find_settings(["debate+mv"])
    with pytest.raises(SpecError, match="No setting was given"):
        find_settings([])
