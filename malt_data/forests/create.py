"""Create a forest, or continue an existing one with the same settings."""

import contextlib
import datetime as dt
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from malt_data import __version__
from malt_data.errors import ForestError, MixError
from malt_data.forests.forest import Forest, open_forest
from malt_data.forests.parts import NodeParts
from malt_data.prompts.templates import kept_kinds
from malt_data.schemas import layout
from malt_data.schemas.forest import QUESTIONS, Question, question_table
from malt_data.schemas.manifest import CURRENT, Manifest
from malt_data.schemas.spec import BuildSpec
from malt_data.storage.files import lock, recover, write_errors, write_text
from malt_data.storage.parquet import write_table
from malt_data.storage.provenance import provenance


def create_forest(
    folder: Path, spec: BuildSpec, questions: Sequence[Question], report: dict[str, Any]
) -> Forest:
    """Create a forest in `folder`, or continue an existing one with the same settings.

    `report` describes how the questions were loaded (source, refused rows, …). Continuing adds new
    questions. Raises MixError if the forest was grown with different settings.
    """
    with lock(folder):  # two builds may start at the same time
        recover(folder)
        if (folder / layout.MANIFEST).exists():
            return _extend(open_forest(folder), spec, questions, report)
        forest = _create(folder, spec, questions, report)
        with write_errors(forest.parts.folder):
            forest.parts.folder.mkdir(exist_ok=True)  # for the lock in it
        return forest


def _create(
    folder: Path, spec: BuildSpec, questions: Sequence[Question], report: dict[str, Any]
) -> Forest:
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if others := sorted(names - {layout.NODES, layout.QUESTIONS}):
        raise ForestError(
            f"{folder} contains other files ({others[0]}, …) but no {layout.MANIFEST}. "
            "Choose an empty folder: --out NAME"
        )
    _write_questions(folder, questions)
    manifest = Manifest(
        created=dt.datetime.now(dt.UTC).replace(microsecond=0),
        malt_data=__version__,
        spec=spec,
        labels=spec.labels,
        questions=report,
        provenance=provenance(),
    )
    write_text(folder / layout.MANIFEST, manifest.to_json())
    return Forest(folder, manifest)


def _extend(
    forest: Forest, spec: BuildSpec, questions: Sequence[Question], report: dict[str, Any]
) -> Forest:
    folder = forest.folder
    forest.require_labelled()
    require_same_settings(forest, spec)
    known = set(forest.questions().select("question_id").collect()["question_id"])
    new = [q for q in questions if q.question_id not in known]
    if not new:
        return forest
    prompts = forest.manifest.spec.prompts | spec.prompts  # including those of new kinds
    before = forest.manifest.spec
    extended_spec = before.model_copy(
        update={"limit": spec.limit, "prompts": prompts, "split": before.split or spec.split}
    )
    manifest = forest.manifest.model_copy(
        update={"spec": extended_spec, "questions": report, "format": CURRENT}
    )
    write_text(folder / layout.MANIFEST, manifest.to_json())
    # Last: if killed before this, the questions are still new and the next run does both writes.
    _write_questions(folder, new, forest)
    return Forest(folder, manifest)


def stored_questions(forest: Forest, questions: Sequence[Question]) -> list[Question]:
    """Return `questions` as stored in the forest, since that is what is asked and graded against.

    Raises MixError if a gold answer has changed in the source: existing trees were graded against
    the old one.
    """
    rows = {row["question_id"]: row for row in forest.questions_dataset().to_table().to_pylist()}
    stored = []
    for question in questions:
        row = rows[question.question_id]
        if row["gold"] != question.gold and row["kind"] == question.kind:
            raise MixError(
                f"The gold answer of question {question.question_id} is {row['gold']!r} in "
                f"{forest.folder} but {question.gold!r} in {question.source}. Restore it there, or "
                "grow a new forest: --out NAME"
            )
        row["choices"] = None if row["choices"] is None else tuple(row["choices"])
        stored.append(Question(**row))
    return stored


def remove_empty(folder: Path) -> None:
    """Remove a forest without trees, and its folder if nothing else is in it.

    Does nothing while another process is building into it.
    """
    with lock(folder / layout.NODES, wait=False) as acquired:
        if not acquired or NodeParts(folder / layout.NODES).trees():
            return
        for path in [folder / layout.MANIFEST, folder / layout.QUESTIONS, folder / ".lock"]:
            path.unlink(missing_ok=True)
        shutil.rmtree(folder / layout.NODES, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def require_same_settings(forest: Forest, spec: BuildSpec) -> None:
    """Raise MixError, listing each setting that differs, unless `spec` grows the same trees."""
    require_grown(forest.manifest.spec, forest.folder)
    folder, labels = forest.folder, forest.manifest.labels
    before, after = forest.manifest.spec.identity(), spec.identity()
    after["prompts"] = kept_kinds(after["prompts"], before["prompts"])
    if before["split"] is None and forest.manifest.format == "forest/1":  # which need not say it
        after["split"] = None
    differing = [name for name in before if after[name] not in (before[name], None)]
    if not differing:
        if spec.labels == labels.model_copy(update={"grader": spec.labels.grader}) != labels:
            raise MixError(
                f"{folder} has since been graded by {labels.grader!r}, not by {spec.grader!r} as "
                "when it was grown. Grade it as before, and build again: "
                f"malt-data relabel {shlex.quote(str(folder))} --grader {spec.grader}"
            )
        if spec.labels != labels:
            raise MixError(
                f"{folder} is labelled with {labels!r}, but this build uses {spec.labels!r}. "
                "Relabel the forest first (malt-data relabel), or drop the option."
            )
        return
    differences = "; ".join(
        f"{name} differ"
        if name in ("prompts", "aliases")
        else f"{name} is {before[name]!r}, not {after[name]!r}"
        for name in differing
    )
    raise MixError(
        f"{folder} was grown with different settings: {differences}. Drop the option to keep the "
        "forest's setting, or grow a new forest: --out NAME"
    )


def require_grown(spec: BuildSpec, folder: Path) -> None:
    """Raise MixError if a forest was imported: its trees cannot be sampled again, or completed."""
    if spec.imported:
        raise MixError(
            f"{folder} was imported, so there is nothing to build: something else sampled its "
            "trees. Grow a new forest (malt-data build --out NAME), or import all the files into "
            "a new one (malt-data import FILE… --out NAME)."
        )


def _write_questions(
    folder: Path, questions: Sequence[Question], forest: Forest | None = None
) -> None:
    table = question_table(questions)
    if forest is not None:
        table = pa.concat_tables([forest.questions_dataset().to_table().cast(QUESTIONS), table])
    write_table(folder / layout.QUESTIONS, table)
