"""Stop a build at a budget: start no tree that would probably exceed it, and finish the others.

limit = Limit(Budget(max_tokens_total=100_000), forest, nodes_per_tree=39)
limit.reached(growing=12)       # None, or the budget that one more tree would exceed
"""

import time
from collections.abc import Iterable

from malt_data.engines import Completion
from malt_data.forests.forest import Forest
from malt_data.schemas.spec import Budget


class Limit:
    """What a build may still spend. A tree is taken to cost what those before it have cost."""

    def __init__(self, budget: Budget, forest: Forest, nodes_per_tree: int) -> None:
        self._budget = budget
        self._deadline = time.monotonic() + 3600 * (budget.max_hours or 0)
        self._nodes = nodes_per_tree
        self._tokens = self._completions = 0
        self._trees, self._in_trees = 0, 0
        if budget.max_tokens_total is not None:
            self._trees, self._in_trees = len(forest.done), _tokens_of(forest)
        self._before = self._in_trees

    def add(self, completion: Completion) -> None:
        """Count a completion."""
        self._completions += 1
        self._tokens += _tokens(completion)

    def add_tree(self, completions: Iterable[Completion]) -> None:
        """Count a finished tree."""
        self._trees += 1
        self._in_trees += sum(map(_tokens, completions))

    def is_blind(self, growing: int) -> bool:
        """Return whether the first trees must show what a tree costs before others start."""
        known = self._trees or self._completions or self._budget.max_tokens_total is None
        return growing > 0 and not known

    def reached(self, growing: int) -> str | None:
        """Return the budget that another tree would exceed, or None.

        growing: trees that have started and not ended.
        """
        if self._budget.max_hours is not None and time.monotonic() >= self._deadline:
            return "max_hours"
        most = self._budget.max_tokens_total
        if most is None:
            return None
        if self._trees:
            tree = self._in_trees / self._trees
        else:
            tree = self._nodes * self._tokens / max(1, self._completions)
        spent = max(self._in_trees + growing * tree, self._before + self._tokens)
        return "max_tokens_total" if spent + tree > most or spent >= most else None


def _tokens(completion: Completion) -> int:
    return (completion.prompt_tokens or 0) + (completion.completion_tokens or 0)


def _tokens_of(forest: Forest) -> int:
    """Return the tokens of all trees of a forest, prompts included, as the engine counted them."""
    counts = forest.nodes().select("prompt_tokens", "completion_tokens").sum().collect()
    return sum(count or 0 for count in counts.row(0))
