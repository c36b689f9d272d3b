"""A forest: a folder of complete trees, opened for reading.

    forest = open_forest("forest")
    forest.nodes()            # polars LazyFrame over all parts
    forest.sql("FROM pairs")  # polars DataFrame, DuckDB over the documented views

Nothing here writes to the folder: `create.py` creates a forest, a build adds trees in parts
(`parts.py`), and `relabel.py` rewrites them.
"""

import contextlib
import hashlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from malt_data.errors import ForestError
from malt_data.forests.manifest import read_manifest
from malt_data.forests.parts import NodeParts
from malt_data.schemas import layout
from malt_data.schemas.forest import NODES, QUESTIONS, VERSION
from malt_data.schemas.manifest import Manifest
from malt_data.schemas.paths import fill_turns
from malt_data.schemas.pipeline import roles_table
from malt_data.schemas.spec import Labelled
from malt_data.storage.hub import HUB, fetch_forest

if TYPE_CHECKING:
    import polars as pl
    import pyarrow.dataset as ds


def open_forest(folder: str | Path | None = None) -> "Forest":
    """Open an existing forest; raise ForestError if it is missing or too new to read.

    folder: a local folder (None: the default one), or `hf://datasets/user/name[@revision]`, which
    is downloaded to the Hub cache once per commit and is read-only.
    """
    if isinstance(folder, str) and folder.startswith(HUB):
        path = fetch_forest(folder.removeprefix(HUB))
        return Forest(path, read_manifest(path), folder)
    path = layout.default_folder() if folder is None else Path(folder)
    return Forest(path, read_manifest(path))


def is_forest(name: str) -> bool:
    """Return whether `name` is a forest, local or on the Hub, rather than a node id."""
    return name.startswith(HUB) or (Path(name) / layout.MANIFEST).exists()


class Forest:
    """All trees of one build: `manifest`, `questions`, `nodes`, and SQL over them."""

    views: tuple[str, ...] = (
        "marked", "trajectories", "pairs", "role_stats", "judgements", "verdicts", "credit",
        "trees", "forest_stats",
    )  # fmt: skip

    def __init__(self, folder: Path, manifest: Manifest, origin: str | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.origin = origin
        """The Hub address it was downloaded from; such a forest is read-only."""
        self.parts = NodeParts(folder / layout.NODES)

    def questions_dataset(self) -> "ds.Dataset":
        """Return questions.parquet for scanning."""
        return _dataset(
            NodeParts(self.folder, QUESTIONS), [self.folder / layout.QUESTIONS], QUESTIONS
        )

    def nodes_dataset(self) -> "ds.Dataset":
        """Return all parts for scanning, older schema versions upgraded."""
        return _dataset(self.parts, self.parts.paths(), NODES)

    def tables(self) -> "dict[str, ds.Dataset]":
        """Return the datasets that SQL views are defined over."""
        import pyarrow.dataset as ds

        return {
            "questions": self.questions_dataset(),
            "nodes": self.nodes_dataset(),
            "roles": ds.dataset(roles_table(self.manifest.spec.pipeline)),
        }

    def computed(self) -> dict[str, Callable[[], pa.Table]]:
        """Return the tables that are computed for a query that names them."""
        from malt_data.forests.confidence import confidence_table

        return {"confidence": lambda: confidence_table(self)}

    def view(self, name: str) -> str:
        """Return the SQL of a file in schemas/views, for the turns of this forest."""
        from malt_data.storage.query import read_view  # imports DuckDB, which only this needs

        spec = self.manifest.spec
        if name == "marked" and not (spec.adaptive or spec.imported):  # spares a join of all nodes
            return "CREATE VIEW marked AS SELECT *, true AS base FROM nodes"
        return fill_turns(read_view(name), len(spec.pipeline.turns))

    def questions(self) -> "pl.LazyFrame":
        """Return one row per question (`schemas.forest.QUESTIONS`), with or without a tree."""
        import polars as pl

        return pl.scan_pyarrow_dataset(self.questions_dataset())

    def question(self, name: str) -> "pl.DataFrame":
        """Return the row of one question, if there is one."""
        file = NodeParts(self.folder, QUESTIONS)
        return file.tree(self.folder / layout.QUESTIONS, name).select(QUESTIONS.names)

    def question_count(self) -> int:
        """Return how many questions there are, with or without a tree."""
        return NodeParts(self.folder, QUESTIONS).rows(self.folder / layout.QUESTIONS)

    def nodes(self) -> "pl.LazyFrame":
        """Return one row per node (`schemas.forest.NODES`), parts in name order."""
        import polars as pl

        return pl.scan_pyarrow_dataset(self.nodes_dataset())

    def sql(self, query: str, parameters: Sequence[Any] = ()) -> "pl.DataFrame":
        """Run one read-only DuckDB query over the views; raise QueryError if it fails."""
        import polars as pl

        from malt_data.storage.query import run_query

        with self.reading():
            return pl.DataFrame(run_query(self, query, parameters))

    def require_writable(self) -> None:
        """Raise ForestError if the forest was opened from the Hub."""
        if self.origin is not None:
            name = self.origin.removeprefix(HUB)
            raise ForestError(
                f"{self.origin} is read-only. Pass a folder with --out, or get a local copy: "
                f"malt-data pull {name}"
            )

    @property
    def done(self) -> set[str]:
        """Ids of the questions that have a tree."""
        return self.parts.trees()

    def fingerprint(self) -> str:
        """Return a hash (16 hex digits) of part names, sizes and labels: the forest's state."""
        facts = [f"{path.name}:{path.stat().st_size}" for path in self.parts.paths()]
        state = "\n".join([self.manifest.labelled.footer().decode(), *facts])
        return hashlib.sha256(state.encode()).hexdigest()[:16]

    def unlabelled(self) -> list[Path]:
        """Return the parts that an interrupted relabel has not rewritten yet."""
        current = self.manifest.labelled
        return [p for p in self.parts.paths() if self.parts.footer(p).labels != current]

    def require_labelled(self) -> None:
        """Raise ForestError if a relabel is unfinished."""
        if remaining := self.unlabelled():
            raise ForestError(
                f"{self.folder} is in the middle of a relabel ({len(remaining)} parts left). "
                f"Finish it first: malt-data relabel {shlex.quote(str(self.folder))}"
            )

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Reload the manifest, and keep other processes from relabelling the forest.

        Raises StorageError if another process is relabelling it.
        """
        if self.origin is not None:  # nothing writes to the Hub cache
            yield
            return
        with self.parts.reading():
            self.manifest = read_manifest(self.folder)
            yield

    def require_unchanged(self, expected: Labelled) -> None:
        """Raise ForestError if another process has relabelled it since it was opened."""
        self.manifest = read_manifest(self.folder)
        if self.manifest.labelled != expected:
            raise ForestError(
                f"{self.folder} has since been relabelled by another process. Run the same command "
                "again."
            )

    def __repr__(self) -> str:
        return f"Forest({str(self.folder)!r}, {self.manifest.format})"


def _dataset(tables: NodeParts, paths: list[Path], schema: pa.Schema) -> "ds.Dataset":
    """Return one dataset over `paths`; older schema versions are upgraded in memory."""
    import pyarrow.dataset as ds  # takes as long as the rest of pyarrow; see commands/startup.py

    older = [path for path in paths if tables.version(path) < VERSION]
    files = ds.dataset([str(p) for p in paths if p not in older], schema=schema, format="parquet")
    if not older:
        return files
    upgraded = ds.dataset([tables.read(path) for path in older], schema=schema)
    return ds.dataset([files, upgraded])
