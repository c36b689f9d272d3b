"""Facts of a forest: the health of its roles, and one tree."""

from importlib import resources
from typing import Any

import polars as pl

from malt_data.errors import ForestError
from malt_data.forests.forest import Forest


def stats(forest: Forest) -> dict[str, Any]:
    """Return {"forest": one row of facts, "roles": [a row a role]}, the `role_stats` view."""
    query = resources.files("malt_data.schemas").joinpath("views/forest_stats.sql").read_text()
    return {
        "forest": forest.sql(query).row(0, named=True),
        "roles": forest.sql("FROM role_stats").to_dicts(),
    }


def find_tree(forest: Forest, name: str | None) -> pl.DataFrame:
    """Return the nodes of one tree in tree order."""
    wanted = name.partition("/")[0] if name else min(forest.done, default="")
    nodes = forest.nodes().filter(pl.col("question_id").str.starts_with(wanted)).collect()
    found = sorted(set(nodes["question_id"]))
    if not found:
        what = f"no tree {wanted!r}" if wanted else "no tree yet"
        raise ForestError(
            f"{forest.folder} has {what}. List them: "
            'malt-data sql "SELECT question_id, question FROM questions"'
        )
    if len(found) > 1:
        raise ForestError(f"{wanted!r} begins {len(found)} ids: {', '.join(found[:3])}, …")
    if "/" in (name or "") and name not in set(nodes["node_id"]):
        raise ForestError(f"Tree {found[0]} has no node {name!r}.")
    return nodes.sort("g", "v", "r", nulls_last=False)
