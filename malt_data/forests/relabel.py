"""Relabel a forest without sampling again (*MALT* §4.2, §A.5).

The manifest is written first; then each part is rewritten with the new labels in its footer. After
an interruption, the parts whose footer differs from the manifest are unfinished, and running the
command again completes them. The footer also determines whether answers must be graded again.

    flips = relabel(open_forest("forest"), Labels(threshold=0.7), dry_run=True)
    flips["verifier"]["to_negative"]
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from malt_data.errors import ForestError
from malt_data.forests.flips import Flips, add_flips, count_flips, no_flips
from malt_data.forests.forest import Forest
from malt_data.forests.grading import GRADED, Golds
from malt_data.forests.labels import relabelled
from malt_data.forests.manifest import update_manifest
from malt_data.forests.values import Columns, value_columns
from malt_data.graders import Grader, is_own, label_of
from malt_data.schemas import layout
from malt_data.schemas.manifest import CURRENT
from malt_data.schemas.spec import Labelled, Labels
from malt_data.storage.files import atomic_folder, write_text
from malt_data.storage.parquet import write_table

OnProgress = Callable[[int, int], None]
"""Called with the number of parts done and the total."""

_COUNTED = [*Columns.NAMES, "role", "label"]


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
        if folder is None and not regrade:
            return self._count(paths, labelled)
        with self._grader(regrade) as grader:
            golds = Golds(forest, grader) if regrade else None
            if folder == forest.folder:
                # Under a lock: a build may be adding its record.
                update_manifest(folder, lambda _: change)
                forest.manifest = manifest
            elif folder is not None:
                write_text(folder / layout.MANIFEST, manifest.to_json())
            flips = no_flips(self._roles)
            for index, path in enumerate(paths):
                grading = golds if path in regrade else None
                dry = folder is None and not grading
                old = forest.parts.read(path, _COUNTED if dry else None)
                table = _graded(old, grading) if grading else old
                columns = Columns.of(table)
                # In the order of the rows, so that unchanged parts stay byte-identical for the Hub.
                values = value_columns(columns, labelled.threshold, labelled.pooling)
                count_flips(flips, old, columns, values.label)
                if not dry:
                    write(path, relabelled(table, values, labelled))
                self.on_progress(index + 1, len(paths))
            return flips

    @property
    def _roles(self) -> tuple[str, ...]:
        return self.forest.manifest.spec.pipeline.roles

    def _count(self, paths: list[Path], labelled: Labelled) -> Flips:
        """Count the flips of parts whose answers stay as they are, in threads."""

        def flips_of(path: Path) -> Flips:
            flips, table = no_flips(self._roles), self.forest.parts.read(path, _COUNTED)
            columns = Columns.of(table)
            values = value_columns(columns, labelled.threshold, labelled.pooling)
            count_flips(flips, table, columns, values.label)
            return flips

        total = no_flips(self._roles)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for index, flips in enumerate(threads.map(flips_of, paths)):
                add_flips(total, flips)
                self.on_progress(index + 1, len(paths))
        return total

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
        timeout_s = self.forest.manifest.spec.grader_timeout
        return Grader(name, timeout_s=timeout_s, note=self.note)


def _needs_regrade(old: Labelled | None, new: Labelled) -> bool:
    """Return whether the answers of a part must be graded again."""
    return old is None or (old.grader, old.regraded) != (new.grader, new.regraded)


def _graded(table: pa.Table, golds: Golds) -> pa.Table:
    """Return a part with its answers graded again."""
    frame = golds.grade(pl.DataFrame(table.select(["question_id", "text", "depth", *GRADED])))
    for name in GRADED:
        field, place = table.schema.field(name), table.schema.get_field_index(name)
        table = table.set_column(place, field, frame[name].to_arrow().cast(field.type))
    return table
