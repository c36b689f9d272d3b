"""How often each node of a tree is right in the long run: a model of the rewards of a forest.

A node's rate is the mean reward of the leaves that could grow under it. Rates are nested: each
question has one, the rates of its children scatter around it, theirs around theirs, and leaves are
right at the rate of their parent. So leaves that share a verifier are alike, and n² leaves say less
about a generator's answer than n² independent draws would.

Under a parent with rate q, half of the children have rates from Beta(s·q, s·(1−q)), and half have
logit-normal ones with the same mean and, at q = ½, about the same variance: one shape alone is off
by several points where rates have the other. Each turn has its own concentration s. These, and the
distribution of the questions' rates, are estimated from the forest (empirical Bayes). Rates live on
a grid, on which inference is exact: messages pass up and down the tree, so a node also learns from
its siblings. All children count, also those marked `extra`: they are draws from the same
distribution, whatever made a build take them.

    rates = fit(Trees.of(nodes))
    rates.posterior(Trees.of(nodes))[0]     # nodes of the first turn × GRID
    rates.simulate((3, 3, 3), rng, np.tile(rates.top, (1000, 1)))  # rewards, 1000 × 3 × 3 × 3
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from malt_data.errors import ForestError
from malt_data.forests.values import Columns

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

CELLS = 100
EDGES: Floats = np.arange(CELLS + 1) / CELLS
GRID: Floats = (EDGES[1:] + EDGES[:-1]) / 2
"""The rates: the middles of equal cells, never exactly 0 or 1."""

_TINY = 1e-300
_STEPS = 100
"""Of the EM algorithm, from a uniform start. More would make the distribution spikier."""
_LOG_BOUNDS = (np.log(0.2), np.log(500.0))
_LOG_PRIOR = (np.log(4.0), 1.5)
"""Mean and standard deviation of log s before any tree was seen; matters in small forests only."""


@dataclass(frozen=True)
class Trees:
    """Rewards of whole trees, as arrays.

    rows: by turn, without the last, the row of each node in the frame given. parents: by turn, the
    place of each node's parent among those of the turn before; of the first, its tree's. right,
    leaves: the sum and number of rewards under each node of the turn before the last (in a tree of
    one turn, under each question).
    """

    trees: int
    rows: tuple[Places, ...]
    parents: tuple[Places, ...]
    right: Floats
    leaves: Floats

    @classmethod
    def of(cls, nodes: pl.DataFrame, reward: str = "reward") -> Self:
        """Return the trees in `nodes`: in tree order, whole, or cut off after some turn.

        reward: the column with what the last turn earned, in [0, 1]; null: not known.
        """
        depth = nodes["depth"].to_numpy()
        turns = int(depth.max(initial=1))
        tree = nodes["question_id"].rle_id().to_numpy().astype(np.int64)
        count = int(tree.max(initial=-1)) + 1
        above = _parents(nodes)
        place = np.zeros(len(nodes), np.int64)
        rows, parents = [], []
        for turn in range(1, turns + 1):
            here = np.flatnonzero(depth == turn)
            place[here] = np.arange(len(here))
            rows.append(here)
            parents.append(tree[here] if turn == 1 else place[above[here]])
        *inner, last = rows
        under, width = parents[-1], len(inner[-1]) if inner else count
        earned = nodes[reward].cast(pl.Float64).to_numpy()[last]
        known = ~np.isnan(earned)
        under, earned = under[known], earned[known]
        return cls(
            trees=count,
            rows=tuple(inner),
            parents=tuple(parents[:-1]),
            right=np.bincount(under, earned, width).astype(float),
            leaves=np.bincount(under, minlength=width).astype(float),
        )

    def only(self, kept: Places) -> Self:
        """Return some of the trees, by their places."""
        keep = np.isin(np.arange(self.trees), kept)
        rows, parents = [], []
        for own, parent in zip(self.rows, self.parents, strict=True):
            new = np.cumsum(keep) - 1
            mask = keep[parent]
            rows.append(own[mask])
            parents.append(new[parent[mask]])
            keep = mask
        return type(self)(
            len(kept), tuple(rows), tuple(parents), self.right[keep], self.leaves[keep]
        )


def _parents(nodes: pl.DataFrame) -> Places:
    """Return the row of each node's parent; of no use in the first turn.

    Raises ForestError if there is no such node in the turn before.
    """
    columns = Columns.of_frame(nodes)
    above = columns.parents(np.arange(len(nodes)))
    lost = (columns.depth > 1) & ((above < 0) | (columns.depth[above] != columns.depth - 1))
    if lost.any():
        name = nodes["question_id"][int(np.flatnonzero(lost)[0])]
        raise ForestError(f"Tree {name} has a node without its parent: malt-data verify")
    return above


@dataclass(frozen=True)
class Rates:
    """The fitted model: `top` is the distribution of the questions' rates over GRID, `spreads` the
    concentration s of each turn but the last.
    """

    top: Floats
    spreads: tuple[float, ...]

    def posterior(self, trees: Trees) -> list[Floats]:
        """Return, by turn without the last, the distribution of each node's rate: nodes × GRID."""
        likelihoods, messages = _upwards(trees, self.spreads)
        belief = np.log(self.top + _TINY) + likelihoods[0]
        found = []
        for parent, message, own, s in zip(
            trees.parents, messages, likelihoods[1:], self.spreads, strict=True
        ):
            without_it = _normalised(belief[parent] - message)
            belief = np.log(without_it @ scatter(s) + _TINY) + own
            found.append(_normalised(belief))
        return found

    def questions(self, trees: Trees) -> Floats:
        """Return the distribution of each question's rate: trees × GRID."""
        return _normalised(np.log(self.top + _TINY) + _upwards(trees, self.spreads)[0][0])

    def simulate(
        self, branching: Sequence[int], rng: "np.random.Generator", questions: Floats
    ) -> Floats:
        """Return the rewards, 0 or 1, of new trees: trees × the branching of each turn.

        branching: of as many turns as the model was fitted to. questions: the distribution of the
        rate of each tree's question, trees × GRID.
        """
        cell = _drawn(questions, rng.random(len(questions)))
        for n, s in zip(branching, self.spreads, strict=False):
            cell = _drawn(scatter(s)[cell][..., None, :], rng.random((*cell.shape, n)))
        return (rng.random((*cell.shape, branching[-1])) < GRID[cell][..., None]).astype(float)


def fit(trees: Trees) -> Rates:
    """Return the model that fits the trees best; it depends on neither order nor threads."""
    from scipy.optimize import minimize

    trees, weights = _distinct(trees)

    def badness(logs: Floats) -> float:
        seen, best = _likelihood(trees, logs)
        fits = float(weights @ (np.log(seen @ _top(seen, weights) + _TINY) + best))
        return float((((logs - _LOG_PRIOR[0]) / _LOG_PRIOR[1]) ** 2).sum() / 2) - fits

    logs = np.full(len(trees.parents), _LOG_PRIOR[0])
    if len(logs):
        bounds = [_LOG_BOUNDS] * len(logs)
        close = {"xatol": 0.05, "fatol": 0.02, "maxfev": 60 * len(logs)}
        logs = minimize(badness, logs, method="Nelder-Mead", bounds=bounds, options=close).x
    return Rates(_top(_likelihood(trees, logs)[0], weights), tuple(np.exp(logs).tolist()))


def _distinct(trees: Trees) -> tuple[Trees, Floats]:
    """Return one of each group of trees that are alike up to the order of siblings, and the sizes
    of the groups: many trees of few leaves are.
    """
    _, kind = np.unique(np.stack([trees.right, trees.leaves]), axis=1, return_inverse=True)
    counts = [trees.trees, *map(len, trees.rows)]
    for turn in range(len(trees.parents) - 1, -1, -1):
        parent = trees.parents[turn]
        order = np.lexsort((kind, parent))
        starts = np.searchsorted(parent[order], np.arange(counts[turn]))
        rank = np.arange(len(order)) - starts[parent[order]]
        children = np.full((counts[turn], int(rank.max(initial=0)) + 1), -1)
        children[parent[order], rank] = kind[order]
        _, kind = np.unique(children, axis=0, return_inverse=True)
    _, kept, sizes = np.unique(kind, return_index=True, return_counts=True)
    order = np.argsort(kept)
    return trees.only(kept[order]), sizes[order].astype(float)


_KNOWN: dict[float, Floats] = {}


def remember(s: float, scattered: Floats) -> None:
    """Let `scatter(s)` return what it found in another process."""
    _KNOWN[s] = scattered


def scatter(s: float) -> Floats:
    """Return the distribution of a child's rate for each rate of its parent: GRID × GRID."""
    return _KNOWN[s] if s in _KNOWN else _scatter(s)


@lru_cache(maxsize=64)
def _scatter(s: float) -> Floats:
    # scipy takes as long to import as all else that `show` does
    from scipy.special import betainc, expit, logit, ndtr

    beta = betainc(s * GRID[:, None], s * (1 - GRID[:, None]), EDGES)
    spread = 2 / np.sqrt(s)
    points, weights = np.polynomial.hermite_e.hermegauss(41)
    middles = np.linspace(-40, 40, 8_001)
    means = expit(middles[:, None] + spread * points) @ (weights / weights.sum())
    middle = np.interp(GRID, means, middles)[:, None]
    logit_normal = ndtr((logit(EDGES) - middle) / spread)
    return np.diff((beta + logit_normal) / 2, axis=1)


def _upwards(trees: Trees, spreads: Any) -> tuple[list[Floats], list[Floats]]:
    """Return the log-likelihoods of what was seen under each question, and under the nodes of each
    turn but the last; and each node's message: what it says of its parent's rate.
    """
    # Few distinct counts occur at the bottom, where most nodes are.
    seen, which = np.unique(np.stack([trees.right, trees.leaves]), axis=1, return_inverse=True)
    right, leaves = seen[0, :, None], seen[1, :, None]
    own = right * np.log(GRID) + (leaves - right) * np.log1p(-GRID)
    likelihoods = [own[which]]
    messages: list[Floats] = []
    counts = [trees.trees, *map(len, trees.rows)]
    for turn in range(len(trees.parents) - 1, -1, -1):
        best = own.max(axis=1, keepdims=True)
        message = np.log(np.exp(own - best) @ scatter(spreads[turn]).T + _TINY) + best
        messages.insert(0, message if messages else message[which])
        own = _summed(messages[0], trees.parents[turn], counts[turn])
        likelihoods.insert(0, own)
    return likelihoods, messages


def _summed(rows: Floats, groups: Places, count: int) -> Floats:
    """Return the sums of the rows of each group, in a fixed order; 0 for an empty group."""
    order = np.argsort(groups, kind="stable")
    found, starts = np.unique(groups[order], return_index=True)
    sums = np.zeros((count, rows.shape[1]))
    if len(found):
        sums[found] = np.add.reduceat(rows[order], starts, axis=0)
    return sums


def _likelihood(trees: Trees, logs: Floats) -> tuple[Floats, Floats]:
    """Return the likelihood of each tree at each rate, trees × GRID, divided by the exponential of
    the second result.
    """
    logs_of = _upwards(trees, np.exp(logs))[0][0]
    best = logs_of.max(axis=1)
    return np.exp(logs_of - best[:, None]), best


def _top(seen: Floats, weights: Floats) -> Floats:
    """Return the distribution of the questions' rates by EM.

    A uniform pseudo-question keeps every rate possible.
    """
    top = np.full(CELLS, 1 / CELLS)
    for _ in range(_STEPS):
        each = (weights / (seen @ top)) @ seen * top
        top = (each + 1 / CELLS) / (weights.sum() + 1)
    return top


def _drawn(chances: Floats, dice: Floats) -> Places:
    """Return the cell that each die falls into. chances: … × GRID."""
    return np.asarray((dice[..., None] > chances.cumsum(axis=-1)[..., :-1]).sum(axis=-1))


def _normalised(logs: Floats) -> Floats:
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
