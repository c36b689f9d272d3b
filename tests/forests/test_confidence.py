"""Confidence: stated probabilities hold on simulated trees with known true values."""

from dataclasses import replace
from typing import get_args

import numpy as np
import polars as pl
import pytest
from simulated_trees import FAMILIES, off, simulate

from malt_data.forests.confidence import fit_confidence
from malt_data.schemas.spec import Labels, Pooling

TREES = 3_000
FITTED = pl.col("tree") < 1_000


@pytest.mark.parametrize("pooling", get_args(Pooling))
@pytest.mark.parametrize("extra", [0, 3], ids=["even", "adaptive"])
def test_stated_probabilities_hold(pooling: Pooling, extra: int) -> None:
    nodes = simulate(FAMILIES["uniform"], TREES, pooling, extra, np.random.default_rng(5))
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
