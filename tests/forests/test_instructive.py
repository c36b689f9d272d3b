"""Which tree is shown if none is named."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from synthetic import answer, make_forest

from malt_data.forests import instructive
from malt_data.forests.instructive import instructive_tree

PLAIN = "SELECT question_id, turns_with_pairs AS mixed, rescued, spoiled FROM trees"


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_best_by_the_view_of_trees(tmp_path: Path, seed: int) -> None:
    forest = make_forest(tmp_path / "f", trees=9, seed=seed, timeouts=0.1)  # a part each
    trees = {row["question_id"]: row for row in forest.sql(PLAIN).to_dicts()}
    in_order = [
        trees[name] for path in forest.parts.paths() for name in forest.parts.trees_in(path)
    ]
    choice = instructive_tree(forest)
    assert choice is not None
    seen = in_order[: choice.seen]
    assert any(tree["mixed"] == 3 for tree in seen)
    assert not any(tree["mixed"] == 3 for tree in seen[:-1]) or len(seen) == 2
    best, another, *_ = sorted(seen, key=rank)
    assert {name: getattr(choice, name) for name in best} == best
    assert choice.another == another["question_id"]
    assert choice.question_id in forest.parts.trees_in(choice.part)


def rank(tree: dict[str, Any]) -> tuple[int, int, str]:
    ways = (tree["rescued"] > 0) + (tree["spoiled"] > 0)
    return -tree["mixed"], -ways, tree["question_id"]


def test_without_a_perfect_tree_it_is_the_one_with_most_mixed_turns(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=4)
    chosen = sorted(forest.done)[2]
    gold = dict(forest.questions().select("question_id", "gold").collect().iter_rows())[chosen]
    answer(forest, lambda name: gold if name in (f"{chosen}/g0/v0/r0", f"{chosen}/g0") else "no")
    choice = instructive_tree(forest)
    assert choice is not None
    assert (choice.question_id, choice.mixed, choice.turns) == (chosen, 1, 3)
    assert (choice.rescued, choice.spoiled) == (0, 5)
    assert "in 1 of 3 turns, the most of 4 trees, 5 right ones spoiled" in choice.reason()


def test_turns_with_one_sample_need_not_be_mixed(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=20, n=(3, 1, 3))
    choice = instructive_tree(forest)
    assert choice is not None
    assert choice.mixed == choice.turns == 2
    assert "in every turn" in choice.reason()
    alone = instructive_tree(make_forest(tmp_path / "alone", trees=3, n=(1, 1, 1)))
    assert alone is not None
    assert "in no turn" in alone.reason()


def test_it_reads_no_texts_and_a_bounded_number_of_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forest = make_forest(tmp_path / "f", trees=8)  # a part each
    answer(forest, lambda name: None)
    monkeypatch.setattr(instructive, "_MOST_NODES", 3 * (2 + 6 + 12))
    asked: list[list[str]] = []
    read = forest.parts.read

    def watched(path: Path, columns: list[str]) -> pa.Table:
        asked.append(columns)
        return read(path, columns)

    monkeypatch.setattr(forest.parts, "read", watched)
    choice = instructive_tree(forest)
    assert choice is not None
    assert (choice.mixed, choice.seen, len(asked)) == (0, 3, 3)
    assert not {"text", "thinking"} & set().union(*asked)


def test_a_forest_without_trees_has_none(tmp_path: Path) -> None:
    assert instructive_tree(make_forest(tmp_path / "f", trees=0)) is None
