"""Values and labels from plain columns: the arithmetic of `labels.py`, without a join.

Every node knows its place in the tree, so the row of its parent is known: where the rows of a tree
lie together in the order of `node`, as builds write them, it is the tree's first row plus `parent`.
A mean over children is then one sum per level. In any other order, rows are looked up by tree and
node, which takes longer.

    columns = Columns.of(parts.read(path, Columns.NAMES))
    value_columns(columns, 0.5, "global").label
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from malt_data.errors import ForestError
from malt_data.schemas.spec import Pooling
from malt_data.storage.parquet import encoded

Array = npt.NDArray[Any]

_NEAR = 1e-8
"""Only values so close to the threshold are rounded, to save time."""


class Values(NamedTuple):
    """What is computed, row by row."""

    value: Array
    label: Array
    leaves: Array


@dataclass(frozen=True)
class Columns:
    """What the values of complete trees follow from, row by row; the trees in any order."""

    NAMES: ClassVar[list[str]] = ["question_id", "node", "parent", "depth", "extra", "reward"]

    names: pa.Array | pl.Series
    """The ids of the trees."""
    tree: Array
    """The index of the tree in `names`."""
    node: Array
    parent: Array
    """-1 in the first turn."""
    depth: Array
    extra: Array
    reward: Array
    """NaN: none."""

    @classmethod
    def of(cls, table: pa.Table) -> "Columns":
        """Return the columns of a table that has NAMES."""
        trees = encoded(table["question_id"])
        return cls(
            trees.dictionary,
            trees.indices.to_numpy(),
            table["node"].to_numpy(),
            _filled(table["parent"]),
            table["depth"].to_numpy(),
            table["extra"].to_numpy(),
            table["reward"].to_numpy().astype(np.float64, copy=False),
        )

    @classmethod
    def of_frame(cls, nodes: pl.DataFrame) -> "Columns":
        """Return the columns of a frame that has NAMES, the rows of each tree together."""
        trees = nodes["question_id"].rle()
        return cls(
            trees.struct.field("value"),
            nodes["question_id"].rle_id().to_numpy(),
            nodes["node"].to_numpy(),
            nodes["parent"].fill_null(-1).to_numpy(),
            nodes["depth"].to_numpy(),
            nodes["extra"].to_numpy(),
            nodes["reward"].cast(pl.Float64).to_numpy(),
        )

    @cached_property
    def in_tree_order(self) -> bool:
        """Whether the rows of each tree lie together, numbered from 0."""
        tree, node = self.tree, self.node
        follows = np.where(tree[1:] == tree[:-1], node[:-1] + 1, 0)
        return bool(not node.size or (node[0] == 0 and (node[1:] == follows).all()))

    def parents(self, rows: Array) -> Array:
        """Return the row of the parent of each row in `rows`, -1 if it is not there."""
        node, parent = self.node[rows], self.parent[rows]
        if self.in_tree_order:
            return np.where((parent >= 0) & (parent < node), rows - node + parent, -1)
        key = self.tree.astype(np.int64) << 32 | self.node
        wanted = self.tree[rows].astype(np.int64) << 32 | np.maximum(parent, 0)
        order = np.argsort(key, kind="stable")
        above = order[np.minimum(np.searchsorted(key, wanted, sorter=order), key.size - 1)]
        return np.where((parent >= 0) & (key[above] == wanted), above, -1)

    def siblings(self) -> Array:
        """Return a number below twice the number of rows that siblings share with no other node."""
        sound = (self.parent >= -1) & (self.parent < self.node)
        if self.in_tree_order and sound.all():  # the last node of a tree is no parent: no overlap
            return np.arange(self.node.size) - self.node + self.parent + 1
        key = self.tree.astype(np.int64) << 32 | self.parent + 1
        return np.unique(key, return_inverse=True)[1]

    def base(self) -> Array:
        """Return which nodes are in the base of their tree: none marked `extra` is at or above."""
        base = ~self.extra
        for depth in range(2, int(self.depth.max(initial=1)) + 1):
            rows = np.flatnonzero(self.depth == depth)
            above = self.parents(rows)
            base[rows] &= (above < 0) | base[above]
        return base

    def families(self, role: Array) -> tuple[Array, Array]:
        """Return the number of each row's family, and the role of each family.

        A family is the siblings of one role. role: a number for that of each row.
        """
        family = self.siblings()
        roles = np.zeros(int(family.max(initial=-1)) + 1, role.dtype)
        roles[family] = role
        if (roles[family] != role).any():  # siblings of two roles: see verify
            many = int(role.max()) + 1
            family = family * many + role
            roles = np.arange(int(family.max()) + 1) % many
        return family, roles


def value_columns(columns: Columns, threshold: float, pooling: Pooling) -> Values:
    """Return values, labels and leaf counts, in the order of the rows.

    Nodes marked `extra` are in no mean above them. A mean adds children in the order of their rows.
    Raises ForestError if an inner node has no children.
    """
    depth, size = columns.depth, columns.depth.size
    value, label, leaves = np.empty(size), np.empty(size, bool), np.ones(size, np.int32)
    place = np.empty(size, np.intp)  # of a row on its level, so that sums are no longer than it
    deepest = int(depth.max(initial=1))
    below = np.flatnonzero(depth == deepest)
    values, labels = columns.reward[below], np.empty(0, bool)
    under: Array = np.ones(below.size, np.int32)
    for level in range(deepest, 0, -1):
        if (missing := np.flatnonzero(np.isnan(values))).size:
            row = int(below[missing[0]])
            tree, node = columns.names[columns.tree[row]], columns.node[row]
            raise ForestError(
                f"Tree {tree} is incomplete: its node {node} at depth {depth[row]} has neither "
                "children nor a reward."
            )
        labels = is_positive(values, threshold)
        value[below], label[below], leaves[below] = values, labels, under
        if level == 1:
            break
        rows = np.flatnonzero(depth == level - 1)
        parents = columns.parents(below)
        counted = ~columns.extra[below] & (parents >= 0) & (depth[parents] == level - 1)
        pooled = labels if pooling == "local" else values
        if not counted.all():
            parents, pooled, under = parents[counted], pooled[counted], under[counted]
        place[rows] = np.arange(rows.size)
        parents = place[parents]
        counts = np.bincount(parents, minlength=rows.size)
        sums = np.bincount(parents, pooled, rows.size)
        values = np.divide(sums, counts, out=np.full(rows.size, np.nan), where=counts > 0)
        under = np.bincount(parents, under, rows.size).astype(np.int32)
        below = rows
    return Values(value, label, leaves)


def count_pairs(columns: Columns, label: Array) -> int:
    """Return the number of pairs of siblings with different labels."""
    siblings = columns.siblings()
    children, positives = np.bincount(siblings), np.bincount(siblings, label).astype(np.int64)
    return int((positives * (children - positives)).sum())


def is_positive(values: Array, threshold: float) -> Array:
    """Return which values are strictly above the threshold, to nine decimals; of any shape.

    A mean of means in floating point can miss an exact tie (0.5 becomes 0.5000000000000001).
    """
    border = round(threshold, 9)
    positive = np.asarray(values > border)
    near = np.abs(values - border) < _NEAR
    if near.any():
        positive[near] = pl.Series(values[near]).round(9).to_numpy() > border
    return positive


def _filled(column: pa.ChunkedArray) -> Array:
    """Return a column of numbers, -1 where it is null."""
    numbers = column.to_numpy()
    if column.null_count:
        numbers = np.where(np.isnan(numbers), -1, numbers).astype(np.int32)
    return np.asarray(numbers)
