"""Confidence: stated probabilities hold on simulated trees with known true values."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest
from simulated_trees import FAMILIES, off, simulate
from synthetic import make_forest

from malt_data.exporters.export import export
from malt_data.exporters.selection import Selection
from malt_data.forests import rates
from malt_data.forests.confidence import fit_confidence
from malt_data.schemas.spec import Labels, Pooling

TREES = 2_500
FITTED = pl.col("tree") < 1_000


@pytest.mark.parametrize("pooling", get_args(Pooling))
@pytest.mark.parametrize("extra", [0, 2], ids=["even", "adaptive"])
@pytest.mark.parametrize("family", ["uniform", "logit-normal"])
def test_stated_probabilities_hold(family: str, pooling: Pooling, extra: int) -> None:
    nodes = simulate(FAMILIES[family], TREES, pooling, extra, np.random.default_rng(5))
    assert bool(nodes["extra"].any()) == bool(extra)
    model = fit_confidence(nodes.filter(FITTED), Labels(pooling=pooling))
    deciles = off(model.of(nodes))
    assert deciles["off"].abs().max() < 0.02, deciles  # type: ignore[operator]


def test_leaves_counted_as_independent_draws_would_be_too_sure() -> None:
    """The test above can fail: the same model, told that siblings always have the same rate."""
    nodes = simulate(FAMILIES["uniform"], TREES, "global", 0, np.random.default_rng(5))
    model = fit_confidence(nodes.filter(FITTED), Labels())
    naive = tuple(replace(rates, spreads=(500.0,) * len(rates.spreads)) for rates in model.rates)
    assert off(replace(model, rates=naive).of(nodes))["off"].min() < -0.05  # type: ignore[operator]


def test_the_view_covers_every_node_and_leaves_are_sure(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=6, n=(3, 3, 3))
    rows = forest.sql("FROM confidence")
    assert set(rows["node_id"]) == set(forest.nodes().select("node_id").collect()["node_id"])
    leaves, inner = rows.filter(pl.col("depth") == 3), rows.filter(pl.col("depth") < 3)
    assert leaves["confidence"].unique().to_list() == [1.0]
    assert inner["confidence"].is_between(0, 1, closed="none").all()
    assert (inner["low"] < inner["high"]).all()


def test_an_export_leaves_out_unsure_nodes_and_counts_them(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=12, n=(3, 3, 3))
    unsure = forest.sql(
        "SELECT count(*) FROM confidence WHERE role = 'verifier' AND label AND confidence < 0.8"
    ).item()
    every = Selection(keep_identical=True, keep_truncated=True)
    without = export(forest, "verifier_sft", every)
    report = export(forest, "verifier_sft", every.updated(min_confidence=0.8))
    assert unsure > 0
    assert report.dropped["unsure"] == unsure
    assert without.total - report.total == unsure


def test_an_older_selection_is_stored_as_before() -> None:
    assert "min_confidence" not in Selection().model_dump()
    assert Selection(min_confidence=0.8).model_dump()["min_confidence"] == 0.8


@pytest.mark.parametrize("harm", ["", "{}", '"', "=="])
def test_a_kept_fit_says_the_same_and_a_corrupt_one_is_fitted_anew(
    harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(rates, "_KNOWN", {})
    forest = make_forest(tmp_path / "f", trees=6, n=(3, 3, 3))
    first = forest.sql("FROM confidence")
    (kept,) = (tmp_path / "cache").glob("confidence*/*")
    text = kept.read_text()
    middle = text.index('"scatters"') + 40
    kept.write_text(text[:middle] + harm + text[middle + len(harm) :])
    assert forest.sql("FROM confidence").equals(first)
    assert kept.read_text() == text
