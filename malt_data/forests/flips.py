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


def add_flips(total: Flips, flips: Flips) -> None:
    """Add the flips of some parts."""
    for role, counts in flips.items():
        sums = total.setdefault(role, dict.fromkeys(_COUNTS, 0))
        for name, count in counts.items():
            sums[name] += count


def count_flips(flips: Flips, table: pa.Table, columns: Columns, new: Array) -> None:
    """Add the flips of one part; a pair is kept if both of its nodes keep their labels.

    table: the part as stored, with its roles and labels. new: its labels from now on.
    """
    roles, old = encoded(table["role"]), table["label"].to_numpy()
    codes = roles.indices.to_numpy()
    found = _flips_by_code(columns, codes, old, new)
    for code, role in enumerate(roles.dictionary.to_pylist()):
        counts = flips.setdefault(role, dict.fromkeys(_COUNTS, 0))  # of no turn: see verify
        for name, sums in found.items():
            counts[name] += int(sums[code]) if code < len(sums) else 0


def _flips_by_code(columns: Columns, codes: Array, old: Array, new: Array) -> dict[str, Array]:
    """Return the counts of each role by its code."""
    family, role = columns.families(codes)
    stays = old & new
    size, nodes = role.size, np.bincount(family, minlength=role.size)
    families = np.flatnonzero(nodes)  # a third of the numbers
    nodes, role = nodes[families], role[families]
    before, after, stayed = (
        np.bincount(family[rows], minlength=size)[families] for rows in (old, new, stays)
    )

    def of_roles(pairs: Array) -> Array:
        return np.bincount(role, pairs)  # exact below 2^53

    pairs_before, pairs_after = (of_roles(some * (nodes - some)) for some in (before, after))
    kept = of_roles(stayed * (nodes - before - after + stayed))
    return {
        "nodes": np.bincount(codes),
        "to_positive": np.bincount(codes[new & ~stays]),
        "to_negative": np.bincount(codes[old & ~stays]),
        "pairs_before": pairs_before,
        "pairs_after": pairs_after,
        "pairs_lost": pairs_before - kept,
        "pairs_gained": pairs_after - kept,
    }
