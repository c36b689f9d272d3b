"""Decide where an adaptive build samples on: the parents that still lack a label.

A preference pair needs siblings with different labels, so a parent whose children all have the same
label teaches nothing. `lacking` picks those that are likely to get a child with the other label for
few completions. Tuned and measured by benchmarks/adaptive.py; docs/method.md has the formula.

It depends on the tree's own outcomes and on fixed settings only, not on order, load or other trees,
so the same forest grows whatever the number of processes, and after an interruption.

    >>> leaves = {(0, 0): True, (0, 1): True, (1, 0): False, (1, 1): True}
    >>> lacking({(0,): True, (1,): False} | leaves, (2, 2), Adaptive())
    [(0,)]
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from malt_data.schemas.spec import Adaptive

Path = tuple[int, ...]


def lacking(labels: Mapping[Path, bool], branching: Sequence[int], rule: Adaptive) -> list[Path]:
    """Return the parents that get one more child, as paths in tree order; () is the question.

    labels: of every node of a tree by its path, which is its sample index in each turn. branching:
    samples per parent without extras, turn by turn.

    The chance that the next child of a parent has the other label is the mean of a Beta
    distribution, whose prior is the share of that label among the leaves elsewhere in the tree,
    worth `rule.prior` children. Such a child makes a pair with each of its siblings. A parent
    qualifies if it can expect `rule.least` pairs for each completion that the child costs, its base
    subtree included, and has fewer than `rule.most` extras.
    """
    children: dict[Path, list[bool]] = defaultdict(list)
    for path, label in labels.items():
        children[path[:-1]].append(label)
    turns = len(branching)
    leaves = [label for path, label in labels.items() if len(path) == turns]
    found = []
    for parent, siblings in children.items():
        turn, first, seen = len(parent), siblings[0], len(siblings)
        if seen >= branching[turn] + rule.most or any(label != first for label in siblings):
            continue
        others, total = leaves.count(not first), len(leaves)
        if turn + 1 == turns:  # its own children are leaves, all with the label `first`
            total -= seen
        share = (others + 0.5) / (total + 1)  # as if one more leaf were half right
        chance = rule.prior * share / (rule.prior + seen)
        if chance * seen >= rule.least * cost(branching, turn):
            found.append(parent)
    return sorted(found)


def cost(branching: Sequence[int], turn: int) -> int:
    """Return the completions of a node in turn `turn`, from 0, with its base subtree."""
    below = branching[turn + 1 :]
    return 1 + sum(math.prod(below[:depth]) for depth in range(1, len(below) + 1))
