"""Values and labels: the only place that decides which nodes are positive (*MALT* §4.2).

The value of a leaf is its reward, the value of any other node the mean over its children, and
a node is positive if its value is strictly above the threshold. Under `local` pooling (§A.5)
a parent averages its children's *labels* instead of their values, i.e. the majority of direct
children decides at every level.

Floating-point means of means can miss exact ties (0.5 becomes 0.5000000000000001), so values are
compared to nine decimals, which is exact for any tree with fewer than 10⁸ leaves.

    >>> frame = pl.DataFrame({"question_id": ["q"] * 4, "node": [0, 1, 2, 3],
    ...     "parent": [None, 0, 1, 1], "depth": [1, 2, 3, 3], "extra": [False] * 4,
    ...     "reward": [None, None, 1.0, 0.0]})
    >>> assign(frame, 0.5, "global").select("value", "label", "leaves").rows()
    [(0.5, False, 2), (0.5, False, 2), (1.0, True, 1), (0.0, False, 1)]
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from malt_data.errors import ForestError
from malt_data.schemas.forest import NODES
from malt_data.schemas.spec import Labels, Pooling
from malt_data.storage.parquet import LABELS

_PLACE = ["question_id", "node"]


def assign(nodes: pl.DataFrame, threshold: float, pooling: Pooling) -> pl.DataFrame:
    """Return `nodes` in tree order with `value`, `label` and `leaves` recomputed.

    nodes: complete trees in any order; needs question_id, node, parent, depth, extra and the
    leaves' reward. Nodes marked `extra` are in no mean above them.
    Raises ForestError if an inner node has no children.
    """
    nodes = nodes.drop("value", "label", "leaves", strict=False).sort(_PLACE)
    deepest = int(nodes["depth"].max() or 1)  # type: ignore[arg-type]
    level = nodes.filter(pl.col("depth") == deepest).with_columns(
        value=pl.col("reward"), leaves=pl.lit(1, pl.Int32)
    )
    levels = [_labelled(level, threshold)]
    for depth in range(deepest - 1, 0, -1):
        pooled = pl.col("label").cast(pl.Float64) if pooling == "local" else pl.col("value")
        children = (
            levels[-1]
            .filter(~pl.col("extra"))
            .group_by("question_id", node="parent", maintain_order=True)
            .agg(value=pooled.mean(), leaves=pl.sum("leaves"))
        )
        level = nodes.filter(pl.col("depth") == depth).join(children, on=_PLACE, how="left")
        levels.append(_labelled(level, threshold))
    return pl.concat(levels, how="vertical").sort(_PLACE)


def tree_labels(
    rewards: Mapping[tuple[int, ...], float], branching: Sequence[int], labels: Labels
) -> dict[tuple[int, ...], bool]:
    """Return the labels of one growing tree by path, as `assign` would; it takes 100 times as long.

    rewards: of every leaf, by its path. branching: samples per parent without extras.
    """
    local = labels.pooling == "local"
    level: dict[tuple[int, ...], float] = dict(rewards)
    found: dict[tuple[int, ...], bool] = {}
    while True:
        positive = {p: round(value, 9) > round(labels.threshold, 9) for p, value in level.items()}
        found |= positive
        depth = len(next(iter(level)))
        if depth == 1:
            return found
        base: dict[tuple[int, ...], list[float]] = defaultdict(list)
        for path, value in level.items():
            if path[-1] < branching[depth - 1]:
                base[path[:-1]].append(float(positive[path]) if local else value)
        level = {path: sum(values) / len(values) for path, values in base.items()}


def _labelled(level: pl.DataFrame, threshold: float) -> pl.DataFrame:
    if level["value"].null_count():
        first = level.filter(pl.col("value").is_null()).row(0, named=True)
        raise ForestError(
            f"Tree {first['question_id']} is incomplete: its node {first['node']} at depth "
            f"{first['depth']} has neither children nor a reward."
        )
    return level.with_columns(
        label=pl.col("value").round(9) > round(threshold, 9), leaves=pl.col("leaves").cast(pl.Int32)
    )


def node_table(rows: list[dict[str, Any]], labels: Labels) -> pa.Table:
    """Return graded rows of complete trees as a part, with values, labels and metadata."""
    computed = {"value", "label", "leaves"}
    schema = pa.schema([f for f in NODES if f.name not in computed])
    frame = pl.from_arrow(pa.Table.from_pylist(rows, schema=schema))
    assert isinstance(frame, pl.DataFrame)
    return stamped(assign(frame, labels.threshold, labels.pooling), labels)


def stamped(frame: pl.DataFrame, labels: Labels) -> pa.Table:
    """Return labelled nodes as a table to store, with `labels` in its footer."""
    table = frame.select(NODES.names).to_arrow().cast(NODES)
    metadata = {**NODES.metadata, LABELS: labels.footer()}
    return table.replace_schema_metadata(metadata)
