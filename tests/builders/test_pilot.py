"""The plan of a build: what a pilot says of the whole."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import known_rates
import numpy as np
import pytest

import malt_data
from malt_data.builders.pilot import PILOT_TREES, predict_build
from malt_data.builders.predict import count, most, predict_total, simulate
from malt_data.engines import Completion, Request
from malt_data.errors import EngineError
from malt_data.forests.rates import GRID, Rates
from malt_data.schemas.spec import Labels

DIFFICULTY = {
    "even": lambda die: die,
    "hard": lambda die: die**3,
    "easy": lambda die: 1 - 0.2 * die**3,
    "split": lambda die: float(die > 0.5),
}


def _holds(estimate: dict[str, float], real: float) -> bool:
    return estimate["low"] - 0.001 <= real <= estimate["high"] + 0.001


def test_nine_of_ten_intervals_contain_what_the_whole_has(tmp_path: Path) -> None:
    inside = []
    for seed, (difficulty, rate) in enumerate(DIFFICULTY.items()):
        engine = known_rates.KnownRates(rate)
        spec = known_rates.spec(tmp_path, 120, n=2, seed=seed)
        plan = predict_build(spec, tmp_path / difficulty, engine=engine)
        assert engine.completions == PILOT_TREES * 14
        assert (plan["pilot_trees"], plan["trees_left"]) == (PILOT_TREES, 120 - PILOT_TREES)
        assert plan["completions"] == {"mean": 1680.0, "low": 1680.0, "high": 1680.0}
        malt_data.build_forest(spec, tmp_path / difficulty, engine=engine)
        assert engine.completions == 120 * 14
        roles = malt_data.open_forest(tmp_path / difficulty).sql("FROM role_stats").to_dicts()
        for name in ("prompt_tokens", "completion_tokens"):
            inside.append(_holds(plan[name], sum(row[name] for row in roles)))
        inside.append(_holds(plan["pairs"], sum(row["usable_pairs"] for row in roles)))
        for planned, row in zip(plan["roles"], roles, strict=True):
            inside.append(_holds(planned["positives"], row["positives"]))
            inside.append(_holds(planned["pairs"], row["usable_pairs"]))
    assert len(inside) == 4 * 9
    assert sum(inside) >= 31


def test_intervals_hold_nine_times_in_ten() -> None:
    """Of pairs and positives, whatever the questions are like, also where most have none."""
    rng = np.random.default_rng(0)
    for rates in (rng.random, lambda n: rng.random(n) ** 4, lambda n: 1 - rng.random(n) ** 6 * 0.3):
        held = []
        for _ in range(200):
            cell = np.asarray(rates(200))
            rewards = (rng.random((200, 3, 3)) < cell[:, None, None]).astype(float)
            found, ends = count(rewards, Labels()), most((3, 3))
            for values, end in ((found.pairs, ends.pairs), (found.positives, ends.positives)):
                total = values.sum(axis=1)
                names = [str(i) for i in range(20)]
                guess = predict_total(total[:20], 180, names, float(end.sum()))
                held.append(guess.low <= total.sum() <= guess.high)
        assert np.mean(held) > 0.86


def test_questions_of_one_template_are_one_observation() -> None:
    values = np.repeat([0.0, 4.0, 1.0, 3.0], 5)
    alone = predict_total(values, 100, [str(i) for i in range(20)])
    together = predict_total(values, 100, [str(i // 5) for i in range(20)])
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_other_branchings_are_those_of_a_build_with_them(tmp_path: Path) -> None:
    engine = known_rates.KnownRates(DIFFICULTY["even"])
    spec = known_rates.spec(tmp_path, 100, n=2)
    plan = predict_build(spec, tmp_path / "two", engine=engine)
    by_n = {row["n"]: row for row in plan["branchings"]}
    assert by_n[1]["pairs"]["high"] == 0
    assert by_n[3]["completions"] == 100 * 39
    malt_data.build_forest(spec.updated(n=3), tmp_path / "three", engine=engine)
    roles = malt_data.open_forest(tmp_path / "three").sql("FROM role_stats")
    real: dict[str, Any] = roles.sum().to_dicts()[0]
    tokens = int(real["prompt_tokens"] + real["completion_tokens"])
    assert _holds(by_n[3]["pairs"], real["usable_pairs"])
    assert by_n[3]["tokens"] == pytest.approx(tokens, rel=0.15)  # of other questions


def test_long_pipelines_are_predicted_with_fewer_draws() -> None:
    """Eight turns with five samples each have 97,656 parents per tree."""
    even = np.full(len(GRID), 1 / len(GRID))
    found = simulate(Rates(even, (4.0,) * 7), np.tile(even, (20, 1)), (5,) * 8, Labels())
    assert 0 < len(found.pairs) <= 20


def test_a_tree_that_cannot_be_grown_does_not_stop_a_plan(tmp_path: Path) -> None:
    class Failing(known_rates.KnownRates):
        async def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
            if "What is 7 less 0?" in str(request.prompt):
                raise EngineError("The prompt is too long.")
            async for each in super().complete(request):
                yield each

    notes: list[str] = []
    spec = known_rates.spec(tmp_path, 20, n=2)
    engine = Failing(DIFFICULTY["even"])
    plan = predict_build(spec, tmp_path / "f", engine=engine, note=notes.append)
    assert plan["pilot_trees"] == 19
    (note,) = [note for note in notes if "1 of the pilot's trees failed" in note]
    assert "The prompt is too long." in note


def test_trees_that_are_there_are_the_pilot(tmp_path: Path) -> None:
    engine = known_rates.KnownRates(DIFFICULTY["even"])
    spec = known_rates.spec(tmp_path, 40, n=1)
    malt_data.build_forest(spec.updated(limit=30), tmp_path / "f", engine=engine)
    plan = predict_build(spec, tmp_path / "f", engine=engine)
    assert engine.completions == 30 * 3
    assert plan["pilot_trees"] == 30
    malt_data.build_forest(spec, tmp_path / "f", engine=engine)
    whole = predict_build(spec, tmp_path / "f", engine=engine)
    assert whole["trees_left"] == 0
    assert whole["pairs"]["low"] == whole["pairs"]["high"]
