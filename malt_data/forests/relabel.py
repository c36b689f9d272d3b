"""Relabel a forest without sampling again (*MALT* §4.2, §A.5).

The manifest is written first; then each part is rewritten with the new labels in its footer. After
an interruption, the parts whose footer differs from the manifest are unfinished, and running the
command again completes them. The footer also determines whether answers must be graded again.

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
from malt_data.graders import Grader, is_own, label_of
from malt_data.schemas import layout
from malt_data.schemas.manifest import CURRENT
from malt_data.schemas.spec import Labelled, Labels
from malt_data.storage.files import atomic_folder, write_text
from malt_data.storage.parquet import write_table

OnProgress = Callable[[int, int], None]
"""Called with the number of parts done and the total."""
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


def relabel(
    forest: Forest,
    labels: Labels,
    *,
    regrade: bool = False,
    out: str | Path | None = None,
    dry_run: bool = False,
    on_progress: OnProgress = lambda done, total: None,
    note: Callable[[str], None] = lambda _: None,
) -> Flips:
    """Label every node of `forest` according to `labels`; return the flips per role.

    regrade: extract and grade every answer again (implied when the grader changes). A function of
    somebody's own only runs in these two cases, which the caller names.
    out: atomically write a relabelled copy there and leave `forest` unchanged.
    Raises ForestError if `out` exists, the new grader cannot grade a gold, or another process has
    just relabelled the forest, GraderError if a function cannot grade, and StorageError if another
    process is using it.
    """
    job = _Job(forest, forest.manifest.labelled, labels, regrade, on_progress, note)
    if dry_run:
        with forest.reading():
            return job.run(lambda *_: None)
    if out is None:
        forest.require_writable()
        with forest.parts.rewriting():
            return job.run(forest.parts.rewrite, forest.folder)
    out = Path(out)
    if out.exists():
        raise ForestError(f"{out} already exists. Choose a new folder: --out NAME")
    with forest.reading(), atomic_folder(out, replace=False) as copy:
        write_table(copy / layout.QUESTIONS, forest.questions_dataset().to_table())
        return job.run(
            lambda path, table: write_table(copy / layout.NODES / path.name, table), copy
        )


@dataclass
class _Job:
    forest: Forest
    expected: Labelled
    """The labels of the forest when it was opened."""
    labels: Labels
    regrade: bool
    on_progress: OnProgress
    note: Callable[[str], None]

    def run(self, write: Callable[[Path, pa.Table], None], folder: Path | None = None) -> Flips:
        """Write the manifest to `folder`, then call `write` with each relabelled part."""
        forest = self.forest
        forest.require_unchanged(self.expected)
        regraded = forest.manifest.regraded + self.regrade
        stored = self.labels.model_copy(update={"grader": label_of(self.labels.grader)})
        change = {"labels": stored, "regraded": regraded, "format": CURRENT}
        manifest = forest.manifest.model_copy(update=change)
        labelled = manifest.labelled
        paths = forest.parts.paths()
        regrade = {
            path for path in paths if _needs_regrade(forest.parts.footer(path).labels, labelled)
        }
        with self._grader(regrade) as grader:
            golds = Golds(forest, grader) if regrade else None
            if folder == forest.folder:
                # Under a lock: a build may be adding its record.
                update_manifest(folder, lambda _: change)
                forest.manifest = manifest
            elif folder is not None:
                write_text(folder / layout.MANIFEST, manifest.to_json())
            roles = manifest.spec.pipeline.roles
            flips: Flips = {role: dict.fromkeys(_COUNTS, 0) for role in roles}
            for index, path in enumerate(paths):
                before = _frame(forest.parts, path)
                after = golds.grade(before) if golds and path in regrade else before
                # Keep the row order, so that unchanged parts stay byte-identical for the Hub.
                after = assign(after.with_row_index("row"), labelled.threshold, labelled.pooling)
                after = after.sort("row").drop("row")
                _count(
                    flips,
                    before.select("node_id", "role", "parent_id", "question_id", "label"),
                    after,
                )
                write(path, stamped(after, labelled))
                self.on_progress(index + 1, len(paths))
            return flips

    def _grader(self, regrade: set[Path]) -> Grader:
        """Return the grader of the new labels; raise ForestError if it must not be run."""
        name = self.labels.grader
        named = self.regrade or name != self.expected.grader
        if is_own(name) and not named:
            if regrade:
                raise ForestError(
                    f"{self.forest.folder}: {len(regrade)} parts still have to be graded by "
                    f"{name}, a function that malt-data does not run unless you name it: "
                    "malt-data relabel --grader FILE.py:function"
                )
            return Grader()  # grades nothing
        return Grader(name, note=self.note)


def _needs_regrade(old: Labelled | None, new: Labelled) -> bool:
    """Return whether the answers of a part must be graded again."""
    return old is None or (old.grader, old.regraded) != (new.grader, new.regraded)


def _frame(parts: NodeParts, path: Path) -> pl.DataFrame:
    frame = pl.from_arrow(parts.read(path))
    assert isinstance(frame, pl.DataFrame)
    return frame.with_columns(pl.col("role").cast(pl.String))


def _count(flips: Flips, before: pl.DataFrame, after: pl.DataFrame) -> None:
    """Add the flips of one part; a pair is kept if both of its nodes keep their labels."""
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
        counts = flips.setdefault(row["role"], dict.fromkeys(_COUNTS, 0))  # of no turn: see verify
        for name in _COUNTS:
            counts[name] += row[name]
