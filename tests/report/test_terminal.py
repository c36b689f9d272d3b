"""`stats` on the terminal."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from malt_data.report.terminal import percent, print_stats

OVERALL: dict[str, Any] = {
    "trees": 1000, "questions": 123456, "all_right": 1, "mixed": 2, "all_wrong": 3,
    "fix_rate": 0.996, "break_rate": 0.004, "prompt_computed": None, "prompt_least": None,
}  # fmt: skip
ROW: dict[str, Any] = {
    "nodes": 123_456_789, "mean_value": 0.123456, "accuracy": 0.4, "usable_pairs": 9_876_543_210,
    "parents_with_pairs": 5, "extra": 0, "positive_if_right": 0.9, "positive_if_wrong": 0.1,
    "mean_confidence": 0.99961, "share_unsure": 1e-9,
}  # fmt: skip


def shown(names: list[str], width: int = 80, **overall: Any) -> str:
    output = io.StringIO()
    console = Console(file=output, width=width)
    roles = [{"role": name, **ROW} for name in names]
    print_stats({"forest": OVERALL | overall, "roles": roles}, console)
    text = output.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return text


@pytest.mark.parametrize(
    ("names", "blocks"),
    [
        (["generator", "verifier", "refiner"], 1),
        ([f"role_{i}" for i in range(4)], 1),
        ([f"role_{i}" for i in range(12)], 3),
        (["a_role_with_a_very_long_name_indeed"] * 3, 3),
        (["x" * 200], 1),
    ],
)
def test_roles_that_do_not_fit_go_into_another_block(names: list[str], blocks: int) -> None:
    text = shown(names)
    assert len(re.findall("^nodes ", text, re.MULTILINE)) == blocks
    assert text.count("123456789") == len(names)
    assert text.count("9876543210") == len(names)


def test_five_roles_share_one_block_if_their_counts_are_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ROW, "usable_pairs", 98_765)
    text = shown(["solver", "critic", "editor", "judge", "closer"])
    assert len(re.findall("^nodes ", text, re.MULTILINE)) == 1


def test_it_says_which_trees_the_confidence_rests_on() -> None:
    assert "smallest ids" not in shown(["generator"])
    assert "of the 1,000 trees with the smallest ids" in " ".join(
        shown(["generator"], trees=1001).split()
    )


def test_labels_that_do_not_follow_the_answers_are_pointed_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "say little" not in shown(["generator"])
    monkeypatch.setitem(ROW, "positive_if_right", 0.28)  # 78 % of pairs prefer the right one
    text = " ".join(shown(["generator", "refiner"]).split())
    assert (
        "the answers of generator (28 % of right ones are positive, 10 % of wrong ones), " in text
    )
    monkeypatch.setitem(ROW, "nodes", 30)  # 12 of them right: too few to say so
    assert "say little" not in shown(["generator"])
    monkeypatch.setitem(ROW, "nodes", 300)
    monkeypatch.setitem(ROW, "positive_if_wrong", None)  # nothing was wrong
    assert "say little" not in shown(["generator"])


def test_what_is_not_certain_is_never_shown_as_100_percent() -> None:
    text = shown(["generator"])
    assert re.search("^mean confidence +>99 %$", text, re.MULTILINE)
    assert re.search("^share unsure +<1 %$", text, re.MULTILINE)
    shares = [0, 0.0, 1e-12, 0.004999, 0.006, 0.5, 0.994, 0.995001, 1 - 1e-12, 1.0, None]
    assert [*map(percent, shares)] == [
        *("0 %", "0 %", "<1 %", "<1 %", "1 %", "50 %", "99 %", ">99 %", ">99 %", "100 %", "n/a"),
    ]
