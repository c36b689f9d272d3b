"""A build stops at a budget, and the next one goes on."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import known_rates
import polars as pl
import pytest

import malt_data
from malt_data.builders.build import BuildReport
from malt_data.engines import Completion, Request
from malt_data.errors import SpecError
from malt_data.schemas.spec import Budget

ENGINE = known_rates.KnownRates(lambda die: die)


def _tokens(folder: Path) -> int:
    nodes = malt_data.open_forest(folder).nodes()
    return int(
        nodes.select(pl.col("prompt_tokens") + pl.col("completion_tokens")).sum().collect().item()
    )


def test_trees_are_grown_in_order_of_id(tmp_path: Path) -> None:
    engine = known_rates.KnownRates(lambda die: die, places=1)
    asked: list[str | None] = []
    complete = engine.complete

    def recorded(request: Request) -> AsyncIterator[tuple[int, Completion]]:
        asked.append(request.tree)
        return complete(request)

    engine.complete = recorded  # type: ignore[method-assign]
    malt_data.build_forest(known_rates.spec(tmp_path, 8), tmp_path / "f", engine=engine)
    first = list(dict.fromkeys(asked))
    assert first == sorted(malt_data.open_forest(tmp_path / "f").done)


def test_it_starts_no_tree_that_would_exceed_the_tokens(tmp_path: Path) -> None:
    spec = known_rates.spec(tmp_path, 60, n=2)
    whole = malt_data.build_forest(spec, tmp_path / "whole", engine=ENGINE)
    assert whole.stopped is None
    budget = _tokens(tmp_path / "whole") // 3
    report = malt_data.build_forest(
        spec, tmp_path / "f", engine=ENGINE, budget=Budget(max_tokens_total=budget)
    )
    assert report.stopped == "max_tokens_total"
    assert report.grown == len(malt_data.open_forest(tmp_path / "f").done)
    assert 0.8 * budget < _tokens(tmp_path / "f") < 1.1 * budget
    assert malt_data.verify(malt_data.open_forest(tmp_path / "f")) == []


def test_what_the_forest_has_cost_before_counts(tmp_path: Path) -> None:
    spec = known_rates.spec(tmp_path, 20, n=2)
    malt_data.build_forest(spec.updated(limit=10), tmp_path / "f", engine=ENGINE)
    spent = _tokens(tmp_path / "f")
    again = malt_data.build_forest(
        spec, tmp_path / "f", engine=ENGINE, budget=Budget(max_tokens_total=spent)
    )
    assert (again.grown, again.stopped) == (0, "max_tokens_total")
    rest = malt_data.build_forest(spec, tmp_path / "f", engine=ENGINE)
    assert (rest.before, rest.grown, rest.stopped) == (10, 10, None)


def test_a_budget_smaller_than_a_tree_grows_one_and_stops(tmp_path: Path) -> None:
    """Only a tree tells what a tree costs."""
    report = malt_data.build_forest(
        known_rates.spec(tmp_path, 20, n=2),
        tmp_path / "f",
        engine=ENGINE,
        budget=Budget(max_tokens_total=1),
    )
    assert (report.grown, report.stopped) == (1, "max_tokens_total")


@pytest.mark.parametrize("settings", [{"n": 3}, {"adaptive": True}])
def test_it_ends_with_as_many_pairs(settings: dict[str, Any], tmp_path: Path) -> None:
    spec = known_rates.spec(tmp_path, 60, **settings)
    engine = known_rates.KnownRates(lambda die: die, places=1)  # two trees at a time
    report = malt_data.build_forest(
        spec, tmp_path / "f", engine=engine, budget=Budget(max_pairs=100)
    )
    assert report.stopped == "max_pairs"
    assert report.grown < 60

    def pairs() -> int:
        return int(malt_data.open_forest(tmp_path / "f").sql("FROM pairs").height)

    found = pairs()
    assert found > 80
    assert found < 100 + 3 * 26 or spec.adaptive  # 26: the most that a tree of n = 3 can have
    again = malt_data.build_forest(
        spec, tmp_path / "f", engine=engine, budget=Budget(max_pairs=found)
    )
    assert (again.grown, pairs()) == (0, found)


def test_it_starts_no_tree_after_the_hours(tmp_path: Path) -> None:
    report = malt_data.build_forest(
        known_rates.spec(tmp_path, 50, n=3),
        tmp_path / "f",
        engine=known_rates.KnownRates(lambda die: die, places=1),
        budget=Budget(max_hours=1e-6),
    )
    assert report.stopped == "max_hours"
    assert report.grown < 50
    assert not report.interrupted


@pytest.mark.parametrize("budget", [{"max_tokens_total": 0}, {"max_pairs": 0}, {"max_hours": -1}])
def test_a_budget_of_nothing_is_refused(budget: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="greater"):
        Budget(**budget)


def test_it_is_not_stored(tmp_path: Path) -> None:
    malt_data.build_forest(
        known_rates.spec(tmp_path, 2, n=1),
        tmp_path / "f",
        engine=ENGINE,
        budget=Budget(max_tokens_total=10**6),
    )
    assert (
        "max_tokens_total" not in json.loads((tmp_path / "f" / "forest.json").read_text())["spec"]
    )


def test_a_build_that_failed_or_was_stopped_does_not_say_that_nothing_was_to_do() -> None:
    folder = Path("f")
    assert "nothing to do" in BuildReport(asked=2, before=2).summary(folder)
    ends: list[dict[str, Any]] = [
        {"failed": {"q": "refused"}}, {"stopped": "--max-pairs"}, {"interrupted": True},
    ]  # fmt: skip
    for ended in ends:
        assert "nothing to do" not in BuildReport(asked=2, **ended).summary(folder)
