"""Simulate adaptive trees against trees of n = 3: pairs a thousand completions, and bias.

    python benchmarks/adaptive.py --trees 100000

Every completion counts as equally long. A question's difficulty, an answer and a verification each
add to the log-odds that a refinement is right. The rule and the labels are the functions that a
build uses. For each distribution of difficulty it prints the ratios of usable pairs and of parents
with a pair, and the mean of value minus true value over base and extra nodes.
"""

import argparse
import math
import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from malt_data.builders.adaptive import lacking
from malt_data.forests.labels import tree_labels
from malt_data.schemas.spec import Adaptive, Labels

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trees", type=int, default=100_000)
    trees = parser.parse_args().trees
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
