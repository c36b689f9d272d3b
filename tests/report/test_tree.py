"""Trees on the terminal: what is folded, and that nothing in a text takes effect."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from synthetic import answer, begin, make_forest

from malt_data.forests.facts import find_tree
from malt_data.forests.forest import Forest
from malt_data.report.tree import print_tree


@pytest.fixture
def forest(tmp_path: Path) -> Forest:
    """One tree of 39 nodes: below g0 all say 5, below g1 nothing, below g2 the leaves 7, else 8."""
    grown = make_forest(tmp_path / "f", trees=1, n=(3, 3, 3))

    def say(name: str) -> str | None:
        branch, *below = name.split("/")[1:]
        return {"g0": "5", "g1": None, "g2": "7" if len(below) == 2 else "8"}[branch]

    answer(grown, say)
    return grown


def shown(forest: Forest, *, marked: str = "", folded: bool = True, width: int = 40) -> list[str]:
    output = io.StringIO()
    console = Console(file=output, width=80)
    tree = find_tree(forest, None)
    hidden = print_tree(forest, tree, console, marked=marked, width=width, folded=folded)
    lines = output.getvalue().splitlines()
    assert hidden == sum(
        int(line.split("… ")[1].split()[0]) for line in lines if "more, all" in line
    )
    assert sum(bool(re.search(r" \d\.\d\d [+-]", line)) for line in lines) + hidden == len(tree)
    return lines


def test_what_repeats_the_answer_above_it_is_folded_and_counted(forest: Forest) -> None:
    lines = shown(forest)
    assert [line[4:].strip() for line in lines if "more, all" in line] == [
        "└── … 12 more, all wrong: 5",
        "└── … 12 more, all without an answer",
        *["│   └── … 2 more, all wrong: 7"] * 2,
        "└── … 2 more, all wrong: 7",
    ]
    assert max(map(len, lines)) <= 80


def test_a_named_node_stays_in_sight_with_the_way_to_it(forest: Forest) -> None:
    named = f"{min(forest.done)}/g0/v1/r2"
    folds = [line.split("… ")[1] for line in shown(forest, marked=named) if "more, all" in line]
    assert folds[:2] == ["3 more, all wrong: 5"] * 2  # below v0 and v2
    assert sum(" r2 " in line for line in shown(forest, marked=named)) == 1


def test_short_trees_and_full_ones_are_not_folded(forest: Forest, tmp_path: Path) -> None:
    assert len(shown(forest, folded=False)) == 2 + 39
    small = make_forest(tmp_path / "small", trees=1, n=(3, 3, 2))
    answer(small, lambda name: "5")
    assert len(shown(small)) == 2 + 30


def test_labels_and_answers_that_differ_are_not_folded_together(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=1, n=(3, 3, 3))
    answer(forest, lambda name: name)
    assert len(shown(forest)) == 2 + 39


def test_without_a_width_texts_are_shown_whole(forest: Forest) -> None:
    long = " ".join(f"word{i}" for i in range(100))
    begin(forest, [f"{long} "])
    assert set(long.split()) <= set(" ".join(shown(forest, folded=False, width=0)).split())


def test_nothing_in_a_text_takes_effect(forest: Forest) -> None:
    hostile = "\x1b[2J\x9b31m\u202e[red]x[/red]"
    answer(forest, lambda name: hostile)
    begin(forest, [hostile])
    for width in (0, 40):
        lines = shown(forest, width=width)
        assert all(line.isprintable() for line in lines)
        assert any("[red]" in line for line in lines)
