"""A forest: a folder of whole trees, opened once and asked many things.

    forest = open_forest("forest")
    forest.nodes()            # polars LazyFrame over all parts
    forest.sql("FROM pairs")  # polars DataFrame, DuckDB over the views of the contract

Nothing here writes to the folder: `create.py` starts a forest, a build adds its trees part by part
(`parts.py`), `relabel.py` rewrites them.
"""

import contextlib
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from malt_data.errors import ForestError
from malt_data.forests.manifest import read_manifest
from malt_data.forests.parts import NodeParts
from malt_data.schemas import layout
from malt_data.schemas.forest import NODES, QUESTIONS, VERSION
from malt_data.schemas.manifest import Manifest
from malt_data.schemas.spec import Labelled
from malt_data.storage.hub import HUB, fetch_forest

DEFAULT_FOLDER = "forest"


def default_folder() -> Path:
    """Return where a forest is looked for when none is named: $MALT_FOREST or ./forest."""
    return Path(os.environ.get("MALT_FOREST") or DEFAULT_FOLDER)


def open_forest(folder: str | Path | None = None) -> "Forest":
    """Open an existing forest; raise ForestError where there is none, or one too new to read.

    folder: a local folder (None: the default one), or `hf://datasets/user/name[@revision]`, of
    which the trees are fetched into the Hub's cache once a commit. That one is only for reading.
    """
    if isinstance(folder, str) and folder.startswith(HUB):
        path = fetch_forest(folder.removeprefix(HUB))
        return Forest(path, read_manifest(path), folder)
    path = default_folder() if folder is None else Path(folder)
    return Forest(path, read_manifest(path))


def is_forest(name: str) -> bool:
    """Tell whether `name` names a forest, here or on the Hub, rather than a node."""
    return name.startswith(HUB) or (Path(name) / layout.MANIFEST).exists()


class Forest:
    """All trees of one build: `manifest`, `questions`, `nodes`, and SQL over them."""

    views: tuple[str, ...] = ("trajectories", "pairs", "role_stats", "verdicts")

    def __init__(self, folder: Path, manifest: Manifest, origin: str | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.origin = origin
        """Where on the Hub it was fetched from; such a forest is only for reading."""
        self.parts = NodeParts(folder / layout.NODES)

    def questions_dataset(self) -> ds.Dataset:
        """Return questions.parquet for scanning."""
        return _dataset(NodeParts(self.folder), [self.folder / layout.QUESTIONS], QUESTIONS)

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
        from malt_data.storage.query import run_query  # DuckDB, which nothing else here needs

        with self.reading():
            return pl.DataFrame(run_query(self, query, parameters))

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


def _dataset(tables: NodeParts, paths: list[Path], schema: pa.Schema) -> ds.Dataset:
    """Scan `paths` as one; files of an older schema version are upgraded in memory."""
    older = [path for path in paths if tables.version(path) < VERSION]
    files = ds.dataset([str(p) for p in paths if p not in older], schema=schema, format="parquet")
    if not older:
        return files
    upgraded = ds.dataset([tables.read(path) for path in older], schema=schema)
    return ds.dataset([files, upgraded])
