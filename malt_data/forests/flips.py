"""Flips: which labels a relabel changes, and what that does to the pairs.

flips = no_flips(["generator", "verifier"])
count_flips(flips, table, columns, values.label)
flips["verifier"]["to_negative"]
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from malt_data.forests.values import Array, Columns
from malt_data.storage.parquet import encoded

Flips = dict[str, dict[str, int]]
"""role → how many nodes flipped each way and how its pairs changed (`_COUNTS`)."""

_COUNTS = (
    "nodes",
    "to_positive",
    "to_negative",
    "pairs_before",
    "pairs_after",
    "pairs_lost",
    "pairs_gained",
)


def no_flips(roles: Iterable[str]) -> Flips:
    """Return the counts of `roles`, all 0."""
    return {role: dict.fromkeys(_COUNTS, 0) for role in roles}


def count_flips(flips: Flips, table: pa.Table, columns: Columns, new: Array) -> None:
    """Add the flips of one part; a pair is kept if both of its nodes keep their labels.

    table: the part as stored, with its roles and labels. new: its labels from now on.
    """
    roles, old, siblings = encoded(table["role"]), table["label"].to_numpy(), columns.siblings()
    codes = roles.indices.to_numpy()
    for code, role in enumerate(roles.dictionary.to_pylist()):
        rows = np.flatnonzero(codes == code)
        counts = flips.setdefault(role, dict.fromkeys(_COUNTS, 0))  # of no turn: see verify
        for name, count in _flips_of(siblings[rows], old[rows], new[rows]).items():
            counts[name] += count


def _flips_of(siblings: Array, old: Array, new: Array) -> dict[str, int]:
    """Return the counts of one role; siblings: the same number for children of one parent."""
    nodes = np.bincount(siblings)
    before, after = (np.bincount(siblings[labels], minlength=nodes.size) for labels in (old, new))
    stayed = np.bincount(siblings[old & new], minlength=nodes.size)
    pairs_before = int(before @ (nodes - before))
    pairs_after = int(after @ (nodes - after))
    kept = int(stayed @ (nodes - before - after + stayed))
    return {
        "nodes": siblings.size,
        "to_positive": int(np.count_nonzero(~old & new)),
        "to_negative": int(np.count_nonzero(old & ~new)),
        "pairs_before": pairs_before,
        "pairs_after": pairs_after,
        "pairs_lost": pairs_before - kept,
        "pairs_gained": pairs_after - kept,
    }
