"""Values and labels: which nodes are positive (*MALT* §4.2). `values.py` has the arithmetic.

The value of a leaf is its reward, the value of any other node the mean over its children, and
a node is positive if its value is strictly above the threshold. Under `local` pooling (§A.5)
a parent averages its children's *labels* instead of their values, i.e. the majority of direct
children decides at every level.

Values are compared to nine decimals, which is exact for any tree with fewer than 10⁸ leaves.

    >>> frame = pl.DataFrame({"question_id": ["q"] * 4, "node": [0, 1, 2, 3],
    ...     "parent": [None, 0, 1, 1], "depth": [1, 2, 3, 3], "extra": [False] * 4,
    ...     "reward": [None, None, 1.0, 0.0]})
    >>> assign(frame, 0.5, "global").select("value", "label", "leaves").rows()
    [(0.5, False, 2), (0.5, False, 2), (1.0, True, 1), (0.0, False, 1)]
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from malt_data.forests.values import Columns, Values, is_positive, value_columns
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
    nodes = nodes.sort(_PLACE)
    columns = Columns.of(nodes.select(Columns.NAMES).to_arrow())
    values = value_columns(columns, threshold, pooling)
    new = [pl.Series(name, column) for name, column in values._asdict().items()]
    return nodes.drop(Values._fields, strict=False).with_columns(new)


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
        above = is_positive(np.array([*level.values()]), labels.threshold)
        positive = dict(zip(level, above.tolist(), strict=True))
        found |= positive
        depth = len(next(iter(level)))
        if depth == 1:
            return found
        base: dict[tuple[int, ...], list[float]] = defaultdict(list)
        for path, value in level.items():
            if path[-1] < branching[depth - 1]:
                base[path[:-1]].append(float(positive[path]) if local else value)
        level = {path: sum(values) / len(values) for path, values in base.items()}


def node_table(rows: list[dict[str, Any]], labels: Labels) -> pa.Table:
    """Return graded rows of complete trees as a part, with values, labels and metadata."""
    computed = {"value", "label", "leaves"}
    schema = pa.schema([f for f in NODES if f.name not in computed])
    frame = pl.from_arrow(pa.Table.from_pylist(rows, schema=schema))
    assert isinstance(frame, pl.DataFrame)
    return stamped(assign(frame, labels.threshold, labels.pooling), labels)


def stamped(frame: pl.DataFrame, labels: Labels) -> pa.Table:
    """Return labelled nodes as a table to store, with `labels` in its footer."""
    return stamp(frame.select(NODES.names).to_arrow().cast(NODES), labels)


def relabelled(table: pa.Table, values: Values, labels: Labels) -> pa.Table:
    """Return a part with new values and `labels`, its other columns as they are."""
    table = table.select(NODES.names).cast(NODES)
    for name, column in values._asdict().items():
        field = NODES.field(name)
        place = table.schema.get_field_index(name)
        table = table.set_column(place, field, pa.array(column, field.type))
    return stamp(table, labels)


def stamp(table: pa.Table, labels: Labels) -> pa.Table:
    """Return `table` with `labels` in its footer."""
    return table.replace_schema_metadata({**NODES.metadata, LABELS: labels.footer()})
