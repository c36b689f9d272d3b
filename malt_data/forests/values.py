"""Values and labels from plain columns: the arithmetic of `labels.py`, without a join.

Every node knows its place in the tree, so the row of its parent is known: where the rows of a tree
lie together in the order of `node`, as builds write them, it is the tree's first row plus `parent`.
A mean over children is then one sum per level. In any other order, rows are looked up by tree and
node, which takes longer. Where all trees have the same nodes, as builds without extras grow them,
the columns are a matrix, a row a tree, and the sums need no look-up at all.

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
    levels = _common_levels(columns)
    found = levels and _of_matrix(columns.reward, levels, threshold, pooling)
    return found or _of_rows(columns, threshold, pooling)


class _Level(NamedTuple):
    """The nodes of one depth in each of some trees that have the same nodes."""

    nodes: Array
    """Their numbers."""
    children: Array
    """Nodes × children: the places of the children among the nodes of the next level."""


def _common_levels(columns: Columns) -> list[_Level] | None:
    """Return the levels of the trees, the deepest first, if all have the same nodes, in tree order.

    None also if a node is `extra`, or nodes of a level differ in the number of their children.
    """
    starts = np.flatnonzero(columns.node == 0)
    width = int(starts[1]) if starts.size > 1 else columns.node.size
    if not width or columns.node.size != width * starts.size or columns.extra.any():
        return None
    tree = columns.tree.reshape(-1, width)
    if (tree != tree[:, :1]).any() or (tree[1:, 0] == tree[:-1, 0]).any():
        return None
    rows = [c.reshape(-1, width) for c in (columns.node, columns.parent, columns.depth)]
    node, parent, depth = (column[0] for column in rows)
    if (node != np.arange(width)).any() or any((c != c[0]).any() for c in rows):
        return None
    levels: list[_Level] = []
    below = np.flatnonzero(depth == depth.max())
    children = np.empty((below.size, 0), int)
    for level in range(int(depth.max()), 0, -1):
        levels.append(_Level(below, children))
        above = np.flatnonzero(depth == level - 1) if level > 1 else np.array([-1])
        order = np.argsort(parent[below], kind="stable")
        if not above.size or below.size % above.size:
            return None
        children = order.reshape(above.size, -1)
        if (parent[below[children]] != above[:, np.newaxis]).any():
            return None
        below = above
    return levels if sum(level.nodes.size for level in levels) == width else None


def _of_matrix(
    reward: Array, levels: list[_Level], threshold: float, pooling: Pooling
) -> Values | None:
    """Return the values of trees that have the same nodes; None if a leaf has no reward."""
    width = sum(level.nodes.size for level in levels)
    rewards = reward.reshape(-1, width)
    value, label = np.empty(rewards.shape), np.empty(rewards.shape, bool)
    leaves = np.ones(width, np.int32)
    values, labels, under = rewards[:, levels[0].nodes], np.empty(0, bool), 1
    if np.isnan(values).any():
        return None
    for nodes, children in levels:
        if children.size:
            pooled = labels.astype(float) if pooling == "local" else values
            total = pooled[:, children[:, 0]]
            for child in children.T[1:]:
                total = total + pooled[:, child]
            values = total / children.shape[1]
            under *= children.shape[1]
        labels = is_positive(values, threshold)
        value[:, nodes], label[:, nodes], leaves[nodes] = values, labels, under
    return Values(value.ravel(), label.ravel(), np.tile(leaves, len(rewards)))


def _of_rows(columns: Columns, threshold: float, pooling: Pooling) -> Values:
    """Return the values of any trees, level by level."""
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
