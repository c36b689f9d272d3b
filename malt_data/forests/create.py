"""Starting a forest, or continuing the one that is there with the same settings."""

import contextlib
import datetime as dt
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from malt_data.errors import ForestError, MixError
from malt_data.forests.forest import Forest, open_forest
from malt_data.forests.parts import NodeParts
from malt_data.schemas import layout
from malt_data.schemas.forest import QUESTIONS, Question, question_table
from malt_data.schemas.manifest import CURRENT, Manifest
from malt_data.schemas.spec import BuildSpec
from malt_data.storage.files import lock, recover, write_errors, write_text
from malt_data.storage.parquet import write_table
from malt_data.storage.provenance import provenance, version


def create_forest(
    folder: Path, spec: BuildSpec, questions: Sequence[Question], report: dict[str, Any]
) -> Forest:
    """Start a forest in `folder`, or continue the one there with the same settings.

    `report` tells how the questions were loaded (source, refused rows, …). Continuing adds
    questions that are new. Raises MixError where the forest was grown with other settings.
    """
    with lock(folder):  # two builds may start at once
        recover(folder)
        if (folder / layout.MANIFEST).exists():
            return _continue(open_forest(folder), spec, questions, report)
        forest = _start(folder, spec, questions, report)
        with write_errors(forest.parts.folder):
            forest.parts.folder.mkdir(exist_ok=True)  # its lock is taken before the first part
        return forest


def _start(
    folder: Path, spec: BuildSpec, questions: Sequence[Question], report: dict[str, Any]
) -> Forest:
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if others := sorted(found - {layout.NODES, layout.QUESTIONS}):
        raise ForestError(
            f"{folder} holds other files ({others[0]}, …) and no {layout.MANIFEST}. "
            "Choose an empty folder: --out NAME"
        )
    _write_questions(folder, questions)
    manifest = Manifest(
        created=dt.datetime.now(dt.UTC).replace(microsecond=0),
        malt_data=version(),
        spec=spec,
        labels=spec.labels,
        questions=report,
        provenance=provenance(),
    )
    write_text(folder / layout.MANIFEST, manifest.to_json())
    return Forest(folder, manifest)


def _continue(
    forest: Forest, spec: BuildSpec, questions: Sequence[Question], report: dict[str, Any]
) -> Forest:
    folder = forest.folder
    forest.require_labelled()
    refuse_mix(forest, spec)
    known = set(forest.questions().select("question_id").collect()["question_id"])
    new = [q for q in questions if q.question_id not in known]
    if not new:
        return forest
    prompts = forest.manifest.spec.prompts | spec.prompts  # of kinds that are new, too
    grown_spec = forest.manifest.spec.model_copy(update={"limit": spec.limit, "prompts": prompts})
    manifest = forest.manifest.model_copy(
        update={"spec": grown_spec, "questions": report, "format": CURRENT}
    )
    write_text(folder / layout.MANIFEST, manifest.to_json())
    _write_questions(folder, new, forest)  # last: after a kill they are still new, and both follow
    return Forest(folder, manifest)


def as_stored(forest: Forest, questions: Sequence[Question]) -> list[Question]:
    """Return `questions` as the forest has them: what is stored is what is asked and graded by.

    Raises MixError where a gold has changed in the source since: the trees there were graded by the
    old one.
    """
    rows = {row["question_id"]: row for row in forest.questions_dataset().to_table().to_pylist()}
    found = []
    for question in questions:
        row = rows[question.question_id]
        if row["gold"] != question.gold and row["kind"] == question.kind:
            raise MixError(
                f"The gold answer of question {question.question_id} is {row['gold']!r} in "
                f"{forest.folder}, {question.gold!r} in {question.source}. Restore it there, or "
                "grow a new forest: --out NAME"
            )
        row["choices"] = None if row["choices"] is None else tuple(row["choices"])
        found.append(Question(**row))
    return found


def remove_empty(folder: Path) -> None:
    """Remove a forest in which nothing grew, and the folder if nothing else is in it.

    Left where it is while another process builds into it.
    """
    with lock(folder / layout.NODES, wait=False) as acquired:
        if not acquired or NodeParts(folder / layout.NODES).trees():
            return
        _remove(folder)


def _remove(folder: Path) -> None:
    for path in [folder / layout.MANIFEST, folder / layout.QUESTIONS, folder / ".lock"]:
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / layout.NODES, ignore_errors=True)
    with contextlib.suppress(OSError):  # it holds something else
        folder.rmdir()


def refuse_mix(forest: Forest, spec: BuildSpec) -> None:
    """Raise MixError, naming each setting that differs, unless `spec` grows the same trees."""
    folder, labels = forest.folder, forest.manifest.labels
    before, after = forest.manifest.spec.identity(), spec.identity()
    # A kind that malt-data has learnt since the forest was begun is no other setting.
    after["prompts"] = {k: v for k, v in after["prompts"].items() if k in before["prompts"]}
    differing = [name for name in before if after[name] not in (before[name], None)]
    if not differing:
        if spec.labels != labels:
            raise MixError(
                f"{folder} is labelled with {labels!r}, this build asks for {spec.labels!r}. "
                "Relabel the forest first (malt-data relabel), or leave the option out."
            )
        return
    facts = "; ".join(
        "prompts differ"
        if name == "prompts"
        else f"{name} {before[name]!r} there, {after[name]!r} here"
        for name in differing
    )
    raise MixError(
        f"{folder} was grown with other settings: {facts}. Use the same ones (leave the option "
        "out to keep the forest's), or grow a new forest: --out NAME"
    )


def _write_questions(
    folder: Path, questions: Sequence[Question], forest: Forest | None = None
) -> None:
    table = question_table(questions)
    if forest is not None:
        table = pa.concat_tables([forest.questions_dataset().to_table().cast(QUESTIONS), table])
    write_table(folder / layout.QUESTIONS, table)
