"""Choose a tree that is worth seeing: one that teaches every role.

    choice = instructive_tree(open_forest("forest"))
    choice.question_id, choice.reason()

The best has both labels among siblings in every turn; ties go to trees on whose paths a wrong
first answer was rescued or a right one spoiled, then to the smallest id. Parts are read one after
another, without their texts, until one of them has such a tree, so a big forest takes no longer.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from malt_data.forests.forest import Forest
from malt_data.forests.values import Columns

_MOST_NODES = 500_000
"""If no tree is perfect, the best one among so many nodes is chosen."""
_COLUMNS = [*Columns.NAMES, "label", "correct"]


@dataclass(frozen=True)
class Choice:
    """The tree chosen, and why.

    part: the file that it is in. mixed: turns with both labels among siblings. turns: those that
    can have them. rescued, spoiled: paths from a wrong first answer to a right last one, and back.
    another: the id of the next best; None if there is none. seen: the number of trees compared.
    """

    question_id: str
    part: Path
    mixed: int
    turns: int
    rescued: int
    spoiled: int
    another: str | None
    seen: int

    def reason(self) -> str:
        """Return what it shows, as the rest of a sentence about the tree."""
        if self.turns == 0:
            where = "in no turn, as none has siblings"
        elif self.mixed == self.turns:
            where = "in every turn"
        else:
            where = f"in {self.mixed} of {self.turns} turns, the most of {self.seen:,} trees"
        facts = [f"both labels among siblings {where}"]
        facts += [f"{self.rescued} wrong first answers rescued"] * (self.rescued > 0)
        facts += [f"{self.spoiled} right ones spoiled"] * (self.spoiled > 0)
        return ", ".join(facts)


def instructive_tree(forest: Forest) -> Choice | None:
    """Return the tree to show if none is named; None if the forest has no tree yet."""
    spec = forest.manifest.spec
    turns = sum(turn.n > 1 or bool(spec.adaptive) for turn in spec.pipeline.turns)
    frames: list[pl.DataFrame] = []
    nodes = 0
    for path in forest.parts.paths():
        if nodes >= _MOST_NODES or _is_enough(frames, turns):
            break
        table = forest.parts.read(path, _COLUMNS)
        frames.append(_facts(table).with_columns(part=pl.lit(str(path))))
        nodes += table.num_rows
    if not nodes:
        return None
    ways = [(pl.col(name) > 0).cast(pl.Int8) for name in ("rescued", "spoiled")]
    order = ("mixed", pl.sum_horizontal(ways), "question_id")
    best = pl.concat(frames).sort(*order, descending=[True, True, False])
    row = best.row(0, named=True) | {"part": Path(best["part"][0])}
    another = best["question_id"][1] if len(best) > 1 else None
    return Choice(**row, turns=max(turns, row["mixed"]), another=another, seen=len(best))


def _is_enough(frames: list[pl.DataFrame], turns: int) -> bool:
    """Return whether there is a tree with all turns mixed, and another one to name."""
    return any((frame["mixed"] >= turns).any() for frame in frames) and sum(map(len, frames)) > 1


def _facts(table: pa.Table) -> pl.DataFrame:
    """Return a row per tree of a part: question_id, mixed, rescued, spoiled."""
    columns = Columns.of(table)
    trees, label = len(columns.names), table["label"].to_numpy()
    siblings = columns.siblings()
    positives, total = np.bincount(siblings, label), np.bincount(siblings)
    mixed = ((positives > 0) & (positives < total))[siblings]
    turns = np.zeros((trees, int(columns.depth.max(initial=1)) + 1), bool)
    turns[columns.tree[mixed], columns.depth[mixed]] = True
    rescued, spoiled = _turned(columns, table["correct"])
    counts = {
        "rescued": np.bincount(columns.tree[rescued], minlength=trees),
        "spoiled": np.bincount(columns.tree[spoiled], minlength=trees),
    }
    names = pl.Series(columns.names).cast(pl.String)
    return pl.DataFrame({"question_id": names, "mixed": turns.sum(axis=1), **counts})


def _turned(columns: Columns, correct: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows are leaves of the base whose first answer was wrong and they are right,
    and the other way round. An answer that could not be graded is neither.
    """
    right = correct.fill_null(False).to_numpy()
    wrong = ~correct.fill_null(True).to_numpy()
    first = np.arange(right.size)
    for level in range(2, int(columns.depth.max(initial=1)) + 1):
        rows = np.flatnonzero(columns.depth == level)
        first[rows] = first[columns.parents(rows)]
    leaf = columns.base() & ~np.isnan(columns.reward)
    return leaf & right & wrong[first], leaf & wrong & right[first]
