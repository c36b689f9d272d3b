"""Facts about a forest: statistics per role, and a single tree."""

from typing import Any

import polars as pl

from malt_data.errors import ForestError
from malt_data.forests.confidence import COLUMNS, confidence_by_role, confidence_of
from malt_data.forests.forest import Forest
from malt_data.forests.role_stats import role_stats

_UNKNOWN = {"mean_confidence": None, "share_unsure": None}
"""Of a role that speaks in none of the trees that the model is fitted to: see `verify`."""


def stats(forest: Forest) -> dict[str, Any]:
    """Return {"forest": one row of facts, "roles": one row per role}.

    A role's row is that of the view `role_stats`, and how sure its labels are (`confidence.py`).
    """
    facts, roles = role_stats(forest)
    sure = confidence_by_role(forest)
    return {
        "forest": facts | _prompt_use(forest),
        "roles": [row | sure.get(row["role"], _UNKNOWN) for row in roles],
    }


def _prompt_use(forest: Forest) -> dict[str, int | None]:
    """Return the prompt tokens that the builds computed, and the fewest that their trees take.

    None unless every build has recorded them.
    """
    runs = forest.manifest.runs
    return {
        "prompt_computed": _total([run.prompt_computed for run in runs]),
        "prompt_least": _total([run.prompt_least for run in runs]),
    }


def _total(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def question_of(forest: Forest, tree: pl.DataFrame) -> dict[str, Any]:
    """Return the row of `questions` that a tree answers; raise ForestError if there is none."""
    name = tree["question_id"][0]
    found = forest.question(name)
    if found.is_empty():
        raise ForestError(
            f"{forest.folder} has a tree of question {name}, which is not in questions.parquet. "
            "Restore that file, or get the forest again."
        )
    return found.row(0, named=True)


def find_tree(forest: Forest, name: str | None) -> pl.DataFrame:
    """Return the nodes of one tree in tree order.

    name: an id of a question or node, of which the question's may be cut short; None: the first
    tree.
    """
    with forest.reading():  # no part is merged between two steps
        return _find_tree(forest, name)


def _find_tree(forest: Forest, name: str | None) -> pl.DataFrame:
    prefix = name.partition("/")[0] if name else min(forest.done, default="")
    found = forest.parts.trees_like(prefix)
    trees = sorted(set().union(*found.values()))
    if not trees:
        what = f"no tree {prefix!r}" if prefix else "no trees yet"
        raise ForestError(
            f"{forest.folder} has {what}. List them: "
            'malt-data sql "SELECT question_id, question FROM questions"'
        )
    if len(trees) > 1:
        raise ForestError(
            f"{prefix!r} is ambiguous: {len(trees)} ids start with it ({', '.join(trees[:3])}, …)."
        )
    nodes = pl.concat(forest.parts.tree(path, trees[0]) for path in found)
    if "/" in (name or "") and full_id(nodes, str(name)) not in set(nodes["node_id"]):
        raise ForestError(f"Tree {trees[0]} has no node {name!r}.")
    return nodes.sort("node")


def full_id(tree: pl.DataFrame, name: str) -> str:
    """Return the id of a question or node whose question's id may be cut short."""
    _, slash, place = name.partition("/")
    return f"{tree['question_id'][0]}{slash}{place}"


def with_confidence(forest: Forest, tree: pl.DataFrame) -> pl.DataFrame:
    """Return a tree with how sure its labels are: `confidence`, `low`, `high` and `bound`."""
    facts = confidence_of(forest).of(tree.select(COLUMNS))
    return tree.hstack(facts.select("confidence", "low", "high", "bound"))
