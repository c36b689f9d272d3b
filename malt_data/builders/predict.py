"""Predict what a whole forest will have from some of its trees, with 90 % intervals.

The trees of a pilot are a random sample of the questions, so the total of the others is predicted
from their mean: Student's t, with the variance of that mean and of the trees to come. The pilot's
own trees are known and not predicted. Questions of one template (`cluster`) count together.

A pilot without a single pair does not mean that there are none: one tree that is as unlike the
others as a tree can be is added to the variance. What another branching would give is simulated
with the model of the forest (`forests/rates.py`), question by question.

    predict_total([3, 0, 4, 1], missing=96, clusters=["a", "b", "c", "d"]).high
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from malt_data.forests.rates import Floats, Rates
from malt_data.forests.values import is_positive
from malt_data.schemas.spec import LabelSpec

LEVEL = 0.9
TOGETHER = 1 - (1 - LEVEL) / 3
"""The level of three intervals that all hold in LEVEL of the cases (Bonferroni)."""
_DRAWS = 4_000
_MOST_PARENTS = 1_000_000
"""Of leaves, in all draws: each takes some kilobytes."""
_LEAST = 0.01
"""Half of the narrowest interval, relative: a pilot may be more alike than the other trees are."""


@dataclass(frozen=True)
class Estimate:
    """A predicted number and its 90 % interval."""

    mean: float
    low: float
    high: float

    def times(self, factor: float) -> "Estimate":
        return Estimate(self.mean * factor, self.low * factor, self.high * factor)

    def to_dict(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


def predict_total(
    trees: npt.ArrayLike,
    missing: int,
    clusters: Sequence[str],
    most: float | None = None,
    level: float = LEVEL,
) -> Estimate:
    """Return the sum over the trees seen and those missing.

    trees: the number that each tree seen has, never negative. clusters: of their questions. most:
    the most that a tree can have, of what some trees have none; None for tokens.
    """
    seen = np.asarray(trees, float)
    unlike = None if most is None else max(0.0, most, key=lambda end: abs(end - seen.mean()))
    variance, of_mean, freedom = _spread(seen, clusters, unlike)
    known, rest = float(seen.sum()), float(seen.mean() * missing)
    return _interval(known, rest, missing, variance, of_mean, freedom, level)


def predict_all(draws: Floats, count: int, seen: int) -> Estimate:
    """Return the sum over `count` trees of which none is known.

    draws: what simulated trees have, for the questions of `seen` trees.
    """
    variance = float(draws.var())
    return _interval(0, float(draws.mean() * count), count, variance, variance / seen, seen - 1)


def _interval(
    known: float,
    rest: float,
    missing: int,
    variance: float,
    of_mean: float,
    freedom: int,
    level: float = LEVEL,
) -> Estimate:
    from scipy.stats import t

    wide = float(t.ppf((1 + level) / 2, max(1, freedom)))
    half = wide * float(np.sqrt(missing * variance + missing**2 * of_mean))
    half = max(half, _LEAST * rest)
    return Estimate(known + rest, known + max(0.0, rest - half), known + rest + half)


def _spread(
    values: Floats, clusters: Sequence[str], unlike: float | None
) -> tuple[float, float, int]:
    """Return the variance of a tree, that of the mean, and the degrees of freedom of the latter."""
    seen = values if unlike is None else np.append(values, unlike)
    apart = seen - seen.mean()
    variance = float((apart**2).sum() / max(1, len(seen) - 1))
    _, which = np.unique([*clusters, *([] if unlike is None else [""])], return_inverse=True)
    sums = np.bincount(which, apart)
    groups = len(sums)
    of_mean = float((sums**2).sum() / len(seen) ** 2 * groups / max(1, groups - 1))
    return variance, of_mean, max(1, groups - 1)


@dataclass(frozen=True)
class Yields:
    """What each of some trees has, by turn: trees × turns."""

    positives: Floats
    pairs: Floats


def simulate(
    rates: Rates, questions: Floats, branching: Sequence[int], labels: LabelSpec
) -> Yields:
    """Return what trees of another branching would have, for each question many times.

    questions: the distribution of each question's rate, questions × GRID. Of long pipelines, fewer
    trees are drawn.
    """
    draws = max(1, min(_DRAWS, _MOST_PARENTS // math.prod(branching[:-1])))
    times = max(1, draws // max(1, len(questions)))
    rng = np.random.default_rng(0)
    rewards = rates.simulate(branching, rng, np.repeat(questions[:draws], times, axis=0))
    return count(rewards, labels)


def most(branching: Sequence[int]) -> Yields:
    """Return the most positives and pairs that a tree can have: 1 × turns."""
    parents = 1
    positives: list[int] = []
    pairs: list[int] = []
    for n in branching:
        pairs.append(parents * (n // 2) * (n - n // 2))
        parents *= n
        positives.append(parents)
    return Yields(np.array([positives], float), np.array([pairs], float))


def count(rewards: Floats, labels: LabelSpec) -> Yields:
    """Count positives and pairs by turn. rewards: trees × the branching of each turn."""
    positives: list[Floats] = []
    pairs: list[Floats] = []
    value = rewards
    while value.ndim > 1:
        label = is_positive(value, labels.threshold)
        right = label.sum(axis=-1)
        mixed = right * (label.shape[-1] - right)
        rest = tuple(range(1, mixed.ndim))
        positives.insert(0, right.sum(axis=rest))
        pairs.insert(0, mixed.sum(axis=rest))
        value = (label if labels.pooling == "local" else value).mean(axis=-1)
    return Yields(np.stack(positives, 1).astype(float), np.stack(pairs, 1).astype(float))
