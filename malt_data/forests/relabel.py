"""Other labels over the same samples: no model is called (*MALT* §4.2, §A.5).

Each part is rewritten whole with its new labels in its footer; the manifest is written first. A
relabel that was interrupted shows as parts whose footer differs from the manifest, and running
it again does the rest.

    flips = relabel(open_forest("forest"), Labels(threshold=0.7), dry_run=True)
    flips["verifier"]["to_negative"]
"""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from malt_data.builders.build import stamped
from malt_data.builders.values import assign
from malt_data.errors import ForestError
from malt_data.forests.forest import Forest
from malt_data.forests.grading import Golds
from malt_data.forests.parts import Parts, lock, write_table, write_text
from malt_data.graders import Grader
from malt_data.schemas.ids import ROLES
from malt_data.schemas.manifest import CURRENT, MANIFEST, Labels

Flips = dict[str, dict[str, int]]
"""role → how many nodes flipped each way, and what became of its pairs (`_COUNTS`)."""

_COUNTS = (
    "nodes",
    "to_positive",
    "to_negative",
    "pairs_before",
    "pairs_after",
    "pairs_lost",
    "pairs_gained",
)


def relabel(
    forest: Forest,
    labels: Labels,
    *,
    regrade: bool = False,
    out: Path | None = None,
    dry_run: bool = False,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> Flips:
    """Give every node of `forest` the labels that `labels` asks for; return what flipped, by role.

    regrade: extract and grade every answer anew (always when the grader changes).
    out: write a relabelled copy there and leave `forest` as it is.
    Raises ForestError where `out` exists or a gold cannot be graded by the new grader.
    """
    if out is None and not dry_run:
        forest.refuse_writing()
    if out is not None and out.exists():
        raise ForestError(f"{out} exists already. Choose a new folder: --out NAME")
    questions = Golds(forest, labels.grader) if regrade or _regraded(forest, labels) else None
    paths = forest.parts.paths()
    flips: Flips = {role: dict.fromkeys(_COUNTS, 0) for role in ROLES}
    target = (forest.folder if dry_run or out is None else out) / "nodes"
    with Grader() as grader, lock(target, wait=False) as mine:
        if not mine:
            raise ForestError(f"{target} is being rewritten by another process. Wait for it.")
        if not dry_run:
            _begin(forest, labels, out)
        for index, path in enumerate(paths):
            before = _frame(forest.parts, path)
            after = questions.grade(before, grader) if questions else before
            # In the order they lay in: what did not change stays byte-equal, for the Hub.
            after = assign(after.with_row_index("place"), labels.threshold, labels.pooling)
            after = after.sort("place").drop("place")
            _count(
                flips, before.select("node_id", "role", "parent_id", "question_id", "label"), after
            )
            if not dry_run:
                write_table(target / path.name, stamped(after, labels))
            watch(index + 1, len(paths))
    return flips


def _begin(forest: Forest, labels: Labels, out: Path | None) -> None:
    manifest = forest.manifest.model_copy(update={"labels": labels, "format": CURRENT})
    if out is not None:
        write_table(out / "questions.parquet", forest.questions_dataset().to_table())
    write_text((out or forest.folder) / MANIFEST, manifest.to_json())


def _regraded(forest: Forest, labels: Labels) -> bool:
    return labels.grader != forest.manifest.labels.grader


def _frame(parts: Parts, path: Path) -> pl.DataFrame:
    frame = pl.from_arrow(parts.read(path))
    assert isinstance(frame, pl.DataFrame)
    return frame.with_columns(pl.col("role").cast(pl.String))


def _count(flips: Flips, before: pl.DataFrame, after: pl.DataFrame) -> None:
    """Add one part's flips; pairs kept are those positive and negative both before and after."""
    both = before.join(after.select("node_id", new="label"), on="node_id")
    both = both.with_columns(parent=pl.coalesce("parent_id", "question_id"))
    old, new = pl.col("label"), pl.col("new")
    sums = (
        both.group_by("role", "parent")
        .agg(
            nodes=pl.len(),
            to_positive=(~old & new).sum(),
            to_negative=(old & ~new).sum(),
            pairs_before=old.sum().cast(pl.Int64) * (~old).sum(),
            pairs_after=new.sum().cast(pl.Int64) * (~new).sum(),
            kept=(old & new).sum().cast(pl.Int64) * (~old & ~new).sum(),
        )
        .drop("parent")
        .group_by("role")
        .sum()
        .with_columns(
            pairs_lost=pl.col("pairs_before") - pl.col("kept"),
            pairs_gained=pl.col("pairs_after") - pl.col("kept"),
        )
    )
    for row in sums.iter_rows(named=True):
        for name in _COUNTS:
            flips[row["role"]][name] += row[name]


__all__ = ["Flips", "relabel"]
