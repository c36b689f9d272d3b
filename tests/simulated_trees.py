"""Trees whose true values are known: rates drawn from a family, rewards from the rates.

    simulate(FAMILIES["beta"], 1000, "global", extra=3, rng=np.random.default_rng(0))

The true value of a node depends on its rate alone, and is computed by quadrature, without the code
under test. With `extra`, a parent whose children all have the same label gets further ones until
one differs, up to so many; a subtree grown in this way has none of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import expit, logit
from scipy.stats import beta, binom, norm

from malt_data.forests.labels import assign
from malt_data.schemas.spec import Pooling

Floats = npt.NDArray[np.float64]
BRANCHING = (3, 3, 3)
_POINTS: Floats = (np.arange(400) + 0.5) / 400
_QUANTILES: Floats = (np.arange(200) + 0.5) / 200


@dataclass(frozen=True)
class Family:
    """How rates are distributed. top: of so many questions. child: the quantile `u` of the rate of
    a child, given its parent's and the turn.
    """

    top: Callable[[np.random.Generator, int], Floats]
    child: Callable[[Floats, Floats, int], Floats]


def _beta_child(parent: Floats, u: Floats, turn: int) -> Floats:
    s, q = (3.0, 8.0, 5.0, 5.0)[turn], np.clip(parent, 1e-6, 1 - 1e-6)
    return np.asarray(beta.ppf(u, s * q, s * (1 - q)))


def _logit_child(parent: Floats, u: Floats, turn: int) -> Floats:
    spread = (1.0, 0.7, 0.7, 0.7)[turn]
    return np.asarray(expit(logit(np.clip(parent, 1e-9, 1 - 1e-9)) + spread * norm.ppf(u)))


def _mixture(rng: np.random.Generator, count: int) -> Floats:
    """Return rates of questions that are never right (30 %), always (30 %), or anything between."""
    kind = rng.random(count)
    return np.where(kind < 0.3, 0.0, np.where(kind < 0.6, 1.0, rng.random(count)))


FAMILIES = {
    "beta": Family(lambda rng, count: rng.beta(0.5, 0.5, count), _beta_child),
    "uniform": Family(lambda rng, count: rng.random(count), _beta_child),
    "logit-normal": Family(lambda rng, count: expit(rng.normal(0, 2, count)), _logit_child),
    "mixture": Family(_mixture, _beta_child),
}
"""Children's rates are Beta, or logit-normal where the name says so; the model mixes both."""


def simulate(
    family: Family, trees: int, pooling: Pooling, extra: int, rng: np.random.Generator,
    threshold: float = 0.5, branching: tuple[int, ...] = BRANCHING,
) -> pl.DataFrame:  # fmt: skip
    """Return the labelled nodes of so many trees, with the true value of each in `truth`."""
    truths = _truths(family, pooling, threshold, branching)
    rates, levels = family.top(rng, trees), []
    for turn, n in enumerate(branching):
        u = rng.random((*rates.shape, n + extra))
        if turn == len(branching) - 1:
            rates = (u < rates[..., None]).astype(float)
        else:
            rates = family.child(rates[..., None], u, turn)
        levels.append(rates)
    kept, extras = _kept(levels, pooling, threshold, branching)
    frames, start, above = [], 0, 0
    for turn, rates in enumerate(levels):
        width = int(np.prod(rates.shape[1:]))
        place = np.broadcast_to(np.arange(width), (trees, width)).reshape(rates.shape)
        tree = np.arange(trees).reshape(-1, *[1] * (rates.ndim - 1))
        mask = kept[turn]
        leaf = turn == len(branching) - 1
        frame = pl.DataFrame({
            "tree": np.broadcast_to(tree, rates.shape)[mask],
            "node": (start + place)[mask],
            "parent": (above + place // rates.shape[-1])[mask],
            "depth": np.full(int(mask.sum()), turn + 1),
            "extra": extras[turn][mask],
            "truth": rates[mask] if leaf else np.interp(rates[mask], _POINTS, truths[turn]),
        })  # fmt: skip
        frames.append(frame)
        start, above = start + width, start
    nodes = pl.concat(frames).with_columns(
        question_id=pl.format("{}", pl.col("tree")).str.zfill(16),
        node_id=pl.format("{}/{}", "tree", "node"),
        parent=pl.when(pl.col("depth") > 1).then("parent"),
        reward=pl.when(pl.col("depth") == len(branching)).then("truth"),
    )
    right = pl.when(pl.col("reward") == 1).then(pl.lit("right")).otherwise(pl.lit("wrong"))
    return assign(nodes.with_columns(verdict=right), threshold, pooling)


def _kept(
    levels: list[Floats], pooling: Pooling, threshold: float, branching: tuple[int, ...]
) -> tuple[list[npt.NDArray[np.bool_]], list[npt.NDArray[np.bool_]]]:
    """Return by turn which of the nodes that could be sampled are, and which are extra."""
    value, labels = levels[-1], [levels[-1] > threshold]
    for n in reversed(branching[1:]):
        below = labels[0].astype(float) if pooling == "local" else value
        value = below[..., :n].mean(axis=-1)
        labels.insert(0, value > threshold + 1e-9)
    kept, extras, open_ = [], [], np.ones((len(levels[0]),), bool)
    above = open_  # who is sampled; open_: and is in no extra subtree
    for label, n in zip(labels, branching, strict=True):
        extra = np.broadcast_to(np.arange(label.shape[-1]) >= n, label.shape)
        same = np.logical_and.accumulate(label == label[..., :1], axis=-1)
        agree = np.concatenate([np.ones_like(same[..., :1]), same[..., :-1]], axis=-1)
        here = above[..., None] & (~extra | (agree & open_[..., None]))
        kept.append(here)
        extras.append(extra)
        above, open_ = here, here & open_[..., None] & ~extra
    return kept, extras


def _truths(
    family: Family, pooling: Pooling, threshold: float, branching: tuple[int, ...]
) -> list[Floats]:
    """Return by turn but the last the true value of a node at each rate of _POINTS."""
    truths = [_POINTS]
    for turn in range(len(branching) - 2, 0, -1):
        below = truths[0]
        if pooling == "local":  # of a child, the probability to be labelled positive
            n = branching[turn + 1]
            below = binom.sf(np.floor(n * threshold + 1e-9), n, below)
        children = family.child(_POINTS[:, None], _QUANTILES, turn)
        truths.insert(0, np.interp(children, _POINTS, below).mean(axis=1))
    return truths


def off(nodes: pl.DataFrame, threshold: float = 0.5) -> pl.DataFrame:
    """Return the mean confidence and the share of right labels of each decile of inner nodes."""
    inner = nodes.filter(pl.col("reward").is_null()).sort("confidence", maintain_order=True)
    return (
        inner.with_row_index()
        .with_columns(
            decile=pl.col("index") * 10 // pl.len(),
            right=(pl.col("truth") > threshold) == pl.col("label"),
        )
        .group_by("decile", maintain_order=True)
        .agg(pl.col("confidence").mean(), pl.col("right").mean(), nodes=pl.len())
        .with_columns(off=pl.col("right") - pl.col("confidence"))
    )
