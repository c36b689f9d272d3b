"""Other labels over the same samples: no model is called (*MALT* §4.2, §A.5).

Each part is rewritten whole with its new labels in its footer; the manifest is written first. A
relabel that was interrupted shows as parts whose footer differs from the manifest, and running
it again does the rest: what a part's footer says decides whether its answers are graded again.

    flips = relabel(open_forest("forest"), Labels(threshold=0.7), dry_run=True)
    flips["verifier"]["to_negative"]
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from malt_data.errors import ForestError
from malt_data.forests.forest import Forest
from malt_data.forests.grading import Golds
from malt_data.forests.labels import assign, stamped
from malt_data.forests.manifest import update_manifest
from malt_data.forests.parts import NodeParts
from malt_data.graders import Grader
from malt_data.schemas import layout
from malt_data.schemas.manifest import CURRENT
from malt_data.schemas.roles import ROLES
from malt_data.schemas.spec import Labelled, Labels
from malt_data.storage.files import atomic_folder, write_text
from malt_data.storage.parquet import write_table

OnProgress = Callable[[int, int], None]
"""Called with the parts done and the parts there are."""
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
    out: str | Path | None = None,
    dry_run: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> Flips:
    """Give every node of `forest` the labels that `labels` asks for; return what flipped, by role.

    regrade: extract and grade every answer anew (always when the grader changes).
    out: write a relabelled copy there, whole or not at all, and leave `forest` as it is.
    Raises ForestError where `out` exists, a gold cannot be graded by the new grader, or another
    process uses or has just relabelled the forest.
    """
    job = _Job(forest, forest.manifest.labelled, labels, regrade, on_progress)
    if dry_run:
        with forest.reading():
            return job.run(lambda *_: None)
    if out is None:
        forest.refuse_writing()
        with forest.parts.rewriting():
            return job.run(forest.parts.rewrite, forest.folder)
    out = Path(out)
    if out.exists():
        raise ForestError(f"{out} exists already. Choose a new folder: --out NAME")
    with forest.reading(), atomic_folder(out, replace=False) as copy:
        write_table(copy / layout.QUESTIONS, forest.questions_dataset().to_table())
        return job.run(
            lambda path, table: write_table(copy / layout.NODES / path.name, table), copy
        )


@dataclass
class _Job:
    forest: Forest
    was: Labelled
    labels: Labels
    regrade: bool
    on_progress: OnProgress

    def run(self, write: Callable[[Path, pa.Table], None], folder: Path | None = None) -> Flips:
        """Give `write` each part with its new labels; the manifest goes to `folder` first."""
        forest = self.forest
        forest.require_unchanged(self.was)
        regraded = forest.manifest.regraded + self.regrade
        change = {"labels": self.labels, "regraded": regraded, "format": CURRENT}
        manifest = forest.manifest.model_copy(update=change)
        wanted = manifest.labelled
        paths = forest.parts.paths()
        again = {path for path in paths if _regraded(forest.parts.footer(path).labels, wanted)}
        golds = Golds(forest, wanted.grader) if again else None
        if folder == forest.folder:
            update_manifest(folder, lambda _: change)  # a build may be adding its record
            forest.manifest = manifest
        elif folder is not None:
            write_text(folder / layout.MANIFEST, manifest.to_json())
        flips: Flips = {role: dict.fromkeys(_COUNTS, 0) for role in ROLES}
        with Grader() as grader:
            for index, path in enumerate(paths):
                before = _frame(forest.parts, path)
                after = golds.grade(before, grader) if golds and path in again else before
                # In the order they lay in: what did not change stays byte-equal, for the Hub.
                after = assign(after.with_row_index("place"), wanted.threshold, wanted.pooling)
                after = after.sort("place").drop("place")
                _count(
                    flips,
                    before.select("node_id", "role", "parent_id", "question_id", "label"),
                    after,
                )
                write(path, stamped(after, wanted))
                self.on_progress(index + 1, len(paths))
        return flips


def _regraded(was: Labelled | None, wanted: Labelled) -> bool:
    """Tell whether a part's answers must be graded again."""
    return was is None or (was.grader, was.regraded) != (wanted.grader, wanted.regraded)


def _frame(parts: NodeParts, path: Path) -> pl.DataFrame:
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
