"""The statistics of a forest and its roles, from plain columns: the numbers of `malt-data stats`.

The views `role_stats` and `credit` count the same in SQL. They group nodes by the ids of their
questions, which takes ten times as long as finding siblings by their place in the tree
(`values.py`). Parts are counted in threads and added up in their order, so that sums are always the
same.

    role_stats(forest).roles[0]["usable_pairs"]
"""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from malt_data.forests.forest import Forest
from malt_data.forests.values import Array, Columns
from malt_data.storage.parquet import encoded

_NULLABLE = ["correct", "prompt_tokens", "completion_tokens", "latency", "answer"]
_READ = [*Columns.NAMES, "role", "label", "finish_reason", "verdict", "value", *_NULLABLE]


class Statistics(NamedTuple):
    """forest: facts of all trees, in the order of display. roles: a row a role, as in the views."""

    forest: dict[str, Any]
    roles: list[dict[str, Any]]


@dataclass
class _Counts:
    """Sums over some parts. roles: by role; `depth`, the first turn of each, is no sum."""

    forest: Counter[str] = field(default_factory=Counter)
    roles: dict[str, Counter[str]] = field(default_factory=dict)
    depths: dict[str, int] = field(default_factory=dict)

    def add(self, other: "_Counts") -> None:
        self.forest.update(other.forest)
        for role, counts in other.roles.items():
            self.roles.setdefault(role, Counter()).update(counts)
            depth = other.depths[role]
            self.depths[role] = min(self.depths.get(role, depth), depth)


def role_stats(forest: Forest) -> Statistics:
    """Return the statistics of a forest."""

    def count(path: Path) -> _Counts:
        table, spec = forest.parts.read(path, _READ), forest.manifest.spec
        marked = bool(spec.adaptive or spec.imported)  # nodes may be `extra`
        return _count(table, len(spec.pipeline.turns), marked=marked)

    total = _Counts()
    with forest.reading(), ThreadPoolExecutor(os.cpu_count()) as threads:
        for counts in threads.map(count, forest.parts.paths()):
            total.add(counts)
        questions = forest.question_count()
    judges = forest.manifest.spec.pipeline.judges
    rows = [
        _role_row(role, total.roles[role]) | _credit(total.roles[role], judges=role in judges)
        for role in sorted(total.roles, key=lambda role: total.depths[role])
    ]
    return Statistics(_forest_row(total.forest, questions), rows)


def _forest_row(counts: Counter[str], questions: int) -> dict[str, Any]:
    return {
        "questions": questions,
        **{name: counts[name] for name in ("trees", "all_right", "all_wrong", "mixed")},
        "fix_rate": _share(counts["fixed"], counts["wrong"]),
        "break_rate": _share(counts["broken"], counts["right"]),
    }


def _role_row(role: str, counts: Counter[str]) -> dict[str, Any]:
    return {
        "role": role,
        **{name: int(counts[name]) for name in ("nodes", "positives", "negatives")},
        "mean_value": _share(counts["value"], counts["base"]),
        "accuracy": _share(counts["correct"], counts["graded"]),
        **{name: int(counts[name]) for name in ("usable_pairs", "parents_with_pairs")},
        **{name: int(counts[name]) for name in ("prompt_tokens", "completion_tokens")},
        "seconds": counts["latency"] if counts["timed"] else None,
        **{name: int(counts[name]) for name in ("truncated", "unanswered", "grading_timeouts")},
        "extra": int(counts["nodes"] - counts["base"]),
    }


def _credit(counts: Counter[str], *, judges: bool) -> dict[str, float | None]:
    """Return how often right and wrong answers are labelled positive; None for roles that judge."""
    if judges:
        return {"positive_if_right": None, "positive_if_wrong": None}
    right, positives = counts["correct"], counts["right_positives"]
    return {
        "positive_if_right": _share(positives, right),
        "positive_if_wrong": _share(counts["base_positives"] - positives, counts["base"] - right),
    }


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _count(table: pa.Table, turns: int, *, marked: bool) -> _Counts:
    """Return the counts of a part. turns: those of the pipeline."""
    columns, nullable = Columns.of(table), _filled(table)
    base = columns.base() if marked else np.ones(columns.node.size, bool)
    roles = encoded(table["role"])
    role = roles.indices.to_numpy()
    counts = _of_roles(role, len(roles.dictionary), table, nullable, base)
    counts |= _pairs(columns, role, len(roles.dictionary), table["label"].to_numpy())
    paths = _of_paths(columns, base, nullable["correct"], turns)
    found = _Counts(_of_trees(columns, base) + paths)
    for code, name in enumerate(roles.dictionary.to_pylist()):
        if counts["nodes"][code]:
            each = {what: sums[code].item() for what, sums in counts.items()}
            found.roles[name] = Counter(each)
            found.depths[name] = int(columns.depth[role == code].min())
    return found


def _filled(table: pa.Table) -> dict[str, Array]:
    """Return the columns that may be null without nulls, and where some were.

    correct: 1, 0, or -1 where it is not known. Tokens are exact below 2^53.
    """
    filled = pl.DataFrame(table.select(_NULLABLE)).select(
        pl.col("correct").cast(pl.Int8).fill_null(-1),
        pl.col("prompt_tokens", "completion_tokens").cast(pl.Float64).fill_null(0),
        pl.col("latency").fill_null(0),
        timed=pl.col("latency").is_not_null(),
        unanswered=pl.col("answer").is_null(),
    )
    return {name: filled[name].to_numpy() for name in filled.columns}


def _of_roles(
    role: Array, roles: int, table: pa.Table, nullable: dict[str, Array], base: Array
) -> dict[str, Array]:
    """Return sums over the nodes of each role. role: the number of each node's."""

    def total(what: Array | None = None, where: Array | None = None) -> Array:
        chosen = role if where is None else role[where]
        weights = what if what is None or where is None else what[where]
        return np.bincount(chosen, weights, roles)

    label, correct = table["label"].to_numpy(), nullable["correct"]
    summed = ("prompt_tokens", "completion_tokens", "latency")
    return {name: total(nullable[name]) for name in summed} | {
        "nodes": total(),
        "positives": total(where=label),
        "negatives": total(where=~label),
        "base": total(where=base),
        "value": total(table["value"].to_numpy(), base),
        "graded": total(where=base & (correct >= 0)),
        "correct": total(where=base & (correct == 1)),
        "right_positives": total(where=base & (correct == 1) & label),
        "base_positives": total(where=base & label),
        "timed": total(where=nullable["timed"]),
        "unanswered": total(where=nullable["unanswered"]),
        "truncated": total(where=_is(table["finish_reason"], "length")),
        "grading_timeouts": total(where=_is(table["verdict"], "timeout")),
    }


def _pairs(columns: Columns, role: Array, roles: int, label: Array) -> dict[str, Array]:
    """Return how many pairs of siblings each role has, and how many parents with pairs."""
    family, of = columns.families(role)
    nodes, positives = (np.bincount(rows, minlength=of.size) for rows in (family, family[label]))
    pairs = positives * (nodes - positives)
    return {
        "usable_pairs": np.bincount(of, pairs, roles),
        "parents_with_pairs": np.bincount(of[pairs > 0], minlength=roles),
    }


def _of_trees(columns: Columns, base: Array) -> Counter[str]:
    """Return how the leaves in the base of each tree ended."""
    leaves = base & ~np.isnan(columns.reward)
    tree = columns.tree[leaves]
    count = np.bincount(tree)
    mean = np.bincount(tree, columns.reward[leaves])[count > 0] / count[count > 0]
    kinds = {"all_right": mean == 1, "all_wrong": mean == 0, "mixed": (mean > 0) & (mean < 1)}
    return Counter({"trees": mean.size} | {name: int(kind.sum()) for name, kind in kinds.items()})


def _of_paths(columns: Columns, base: Array, correct: Array, turns: int) -> Counter[str]:
    """Return what became of wrong and right first answers. correct: 1, 0, or -1 for unknown."""
    leaf = np.isnan(columns.reward)
    last = first = np.flatnonzero(base & ~leaf)
    for _ in range(turns - 1):
        above = columns.parents(first)
        last, first = last[above >= 0], above[above >= 0]
    inner = leaf[first]
    before, after = correct[first[inner]], correct[last[inner]]
    wrong, right = (before == 0) & (after >= 0), (before == 1) & (after >= 0)
    return Counter(
        wrong=int(wrong.sum()),
        right=int(right.sum()),
        fixed=int((wrong & (after == 1)).sum()),
        broken=int((right & (after == 0)).sum()),
    )


def _is(column: pa.ChunkedArray, word: str) -> Array:
    texts = encoded(column)
    places = {text: place for place, text in enumerate(texts.dictionary.to_pylist())}
    return np.asarray(texts.indices.to_numpy(zero_copy_only=False) == places.get(word, -1))
