"""Stop a build at a budget: start no tree that would probably exceed it, and finish the others.

limit = Limit(Budget(max_tokens_total=100_000), spec, totals(forest))
limit.reached(growing=12)       # None, or the budget that one more tree would exceed
"""

import time
from collections import Counter
from collections.abc import Sequence

from malt_data.builders.tree import Node
from malt_data.engines import Completion
from malt_data.forests.labels import tree_labels
from malt_data.forests.totals import Totals
from malt_data.schemas.spec import Budget, BuildSpec


class Limit:
    """What a build may still spend. A tree is taken to be like those before it, on average."""

    def __init__(self, budget: Budget, spec: BuildSpec, earlier: Totals) -> None:
        """earlier: of the trees that are there."""
        self._budget = budget
        self._spec = spec
        self._deadline = time.monotonic() + 3600 * (budget.max_hours or 0)
        self._sampled = self._completions = 0
        self._trees, self._pairs = earlier.trees, earlier.pairs
        self._tokens = self._before = earlier.prompt_tokens + earlier.completion_tokens

    def add(self, completion: Completion) -> None:
        """Count a completion."""
        self._completions += 1
        self._sampled += _tokens(completion)

    def add_tree(self, nodes: Sequence[Node], rewards: Sequence[float | None]) -> None:
        """Count a finished tree. rewards: of each node, None above the leaves."""
        self._trees += 1
        self._tokens += sum(_tokens(node.completion) for node in nodes)
        if self._budget.max_pairs is not None:
            earned = zip(nodes, rewards, strict=True)
            known = {node.path: reward for node, reward in earned if reward is not None}
            labels = tree_labels(known, self._spec.chain.branching, self._spec.labels)
            self._pairs += _pairs(labels)

    def is_blind(self, growing: int) -> bool:
        """Return whether the first trees must show what a tree costs before others start."""
        if growing == 0 or self._trees:
            return False
        if self._budget.max_pairs is not None:
            return True
        return self._budget.max_tokens_total is not None and not self._completions

    def reached(self, growing: int) -> str | None:
        """Return the budget that another tree would exceed, or None.

        growing: trees that have started and not ended.
        """
        budget = self._budget
        if budget.max_hours is not None and time.monotonic() >= self._deadline:
            return "max_hours"
        if (most := budget.max_pairs) is not None:
            coming = growing * self._pairs / max(1, self._trees)
            if self._pairs + coming >= most:
                return "max_pairs"
        if (most := budget.max_tokens_total) is not None:
            if self._trees:
                tree = self._tokens / self._trees
            else:
                tree = self._spec.chain.nodes_per_tree * self._sampled / max(1, self._completions)
            spent = max(self._tokens + growing * tree, self._before + self._sampled)
            if spent + tree > most or spent >= most:
                return "max_tokens_total"
        return None


def _tokens(completion: Completion) -> int:
    return (completion.prompt_tokens or 0) + (completion.completion_tokens or 0)


def _pairs(labels: dict[tuple[int, ...], bool]) -> int:
    """Return the number of pairs of siblings with different labels. labels: of nodes by path."""
    positive = Counter(path[:-1] for path, label in labels.items() if label)
    children = Counter(path[:-1] for path in labels)
    return sum(count * (children[parent] - count) for parent, count in positive.items())
