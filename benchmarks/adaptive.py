"""Simulate adaptive trees against trees of n = 3: pairs a thousand completions, and bias.

    python benchmarks/adaptive.py --trees 100000     # some 10 minutes
    python benchmarks/adaptive.py --model 40         # the embedded model, some 10 minutes

Every completion counts as equally long. A question's difficulty, an answer and a verification each
add to the log-odds that a refinement is right. The rule and the labels are the functions that a
build uses. For each distribution of difficulty it prints the ratios of usable pairs and of parents
with a pair, and the mean of value minus true value over base and extra nodes.

With `--model` the embedded model answers so many of its own questions, once with trees of n = 3 and
once with adaptive trees. It prints the usable pairs of different texts a thousand tokens, prompts
included, and their ratio with a 90 % interval from resampling the questions.
"""

import argparse
import math
import random
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path as FilePath

import numpy as np

from malt_data.builders.adaptive import lacking
from malt_data.builders.build import build_forest
from malt_data.forests.forest import open_forest
from malt_data.forests.labels import tree_labels
from malt_data.schemas.spec import Adaptive, BuildSpec, Labels

Path = tuple[int, ...]
SPREAD = 0.7
"""Standard deviation, in log-odds, of what an answer or a verification adds."""
POINTS, WEIGHTS = np.polynomial.hermite_e.hermegauss(20)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
DIFFICULTIES = ("beta(1/2, 1/2)", "logit-normal(0, 3)", "uniform")


def difficulty(name: str, source: random.Random) -> float:
    """Return the log-odds of a question."""
    if name == "logit-normal(0, 3)":
        return source.gauss(0, 3)
    chance = source.random() if name == "uniform" else source.betavariate(0.5, 0.5)
    chance = min(max(chance, 1e-6), 1 - 1e-6)
    return math.log(chance / (1 - chance))


def true_value(odds: float, depth: int) -> float:
    """Return the true value of an answer (depth 1) or a verification (depth 2)."""
    if depth == 2:
        return 1 / (1 + math.exp(-odds))
    return float((WEIGHTS / (1 + np.exp(-odds - SPREAD * POINTS))).sum())


@dataclass
class Tree:
    """One simulated tree."""

    branching: Path
    source: random.Random
    odds: dict[Path, float]
    rewards: dict[Path, float] = field(default_factory=dict)
    values: dict[Path, float] = field(default_factory=dict)

    def grow(self, path: Path) -> float:
        """Sample a node with its base subtree; return its value."""
        above = self.odds[path[:-1]]
        if len(path) == 3:
            self.rewards[path] = float(self.source.random() < 1 / (1 + math.exp(-above)))
            return self.rewards[path]
        self.odds[path] = above + self.source.gauss(0, SPREAD)
        values = [self.grow((*path, i)) for i in range(self.branching[len(path)])]
        self.values[path] = sum(values) / len(values)
        return self.values[path]


def simulate(
    name: str, trees: int, n: int, rule: Adaptive | None
) -> tuple[float, float, dict[bool, float]]:
    """Return pairs and parents with pairs a thousand completions, and the bias by `extra`."""
    source, branching = random.Random(0), (n, n, n)
    completions = pairs = parents = 0
    errors: dict[bool, list[float]] = {False: [0.0, 0], True: [0.0, 0]}
    for _ in range(trees):
        tree = Tree(branching, source, {(): difficulty(name, source)})
        for i in range(n):
            tree.grow((i,))
        labels = tree_labels(tree.rewards, branching, Labels())
        while rule and (more := lacking(labels, branching, rule)):
            children = Counter(path[:-1] for path in labels)
            for parent in more:
                tree.grow((*parent, children[parent]))
            labels = tree_labels(tree.rewards, branching, Labels())
        completions += len(labels)
        below: dict[Path, list[int]] = {}
        for path, label in labels.items():
            below.setdefault(path[:-1], [0, 0])[label] += 1
        pairs += sum(a * b for a, b in below.values())
        parents += sum(a > 0 and b > 0 for a, b in below.values())
        for path, value in tree.values.items():
            error = errors[max(path) >= n]
            error[0] += value - true_value(tree.odds[path], len(path))
            error[1] += 1
    bias = {extra: total / count for extra, (total, count) in errors.items() if count}
    return 1000 * pairs / completions, 1000 * parents / completions, bias


def yields(folder: FilePath, spec: BuildSpec) -> np.ndarray:
    """Grow a forest; return pairs of different texts, and tokens, of each of its trees."""
    build_forest(spec, folder)
    query = """
        WITH tokens AS (
            SELECT question_id, sum(prompt_tokens + completion_tokens) AS tokens
            FROM nodes GROUP BY ALL
        ), taught AS (
            SELECT pairs.question_id, count(*) FILTER (chosen.text <> rejected.text) AS pairs
            FROM pairs
            JOIN nodes AS chosen ON chosen.node_id = chosen_id
            JOIN nodes AS rejected ON rejected.node_id = rejected_id
            GROUP BY ALL
        )
        SELECT coalesce(pairs, 0)::DOUBLE, tokens::DOUBLE
        FROM tokens LEFT JOIN taught USING (question_id) ORDER BY question_id
    """
    return open_forest(folder).sql(query).to_numpy()


def compare_on_model(trees: int) -> None:
    """Print pairs a thousand tokens of the embedded model, exact and adaptive."""
    asked = {"limit": trees, "temperature": 0.7}
    with tempfile.TemporaryDirectory(prefix="malt-adaptive-") as name:
        exact = yields(FilePath(name) / "exact", BuildSpec(**asked, n=3))
        adaptive = yields(FilePath(name) / "adaptive", BuildSpec(**asked, adaptive=True))
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, trees, trees) for _ in range(10_000)]
    rate = [[pairs / tokens for pairs, tokens in (exact[rows].sum(0), adaptive[rows].sum(0))]
            for rows in drawn]  # fmt: skip
    ratios = np.array([new / old for old, new in rate if old])
    for kind, found in (("n = 3", exact), ("adaptive", adaptive)):
        pairs, tokens = found.sum(0)
        print(f"{kind:9} {pairs:.0f} pairs, {tokens:.0f} tokens: {1000 * pairs / tokens:.2f}")
    times = (adaptive.sum(0)[0] / adaptive.sum(0)[1]) / (exact.sum(0)[0] / exact.sum(0)[1])
    low, high = np.quantile(ratios, (0.05, 0.95))
    print(f"{times:.2f} times as many pairs a token, 90 % interval {low:.2f} to {high:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trees", type=int, default=100_000)
    parser.add_argument("--model", type=int, metavar="QUESTIONS", help="ask the embedded model")
    options = parser.parse_args()
    if options.model:
        compare_on_model(options.model)
        return
    trees = options.trees
    for name in DIFFICULTIES:
        pairs, parents, _ = simulate(name, trees // 5, 3, None)
        more, wider, bias = simulate(name, trees, 2, Adaptive())
        print(
            f"{name}: {pairs:.0f} → {more:.0f} pairs ({more / pairs:.2f} times), "
            f"{parents:.0f} → {wider:.0f} parents ({wider / parents:.2f} times); bias of base "
            f"{bias[False]:+.4f}, of extras {bias.get(True, 0):+.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
