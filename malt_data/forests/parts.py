"""The part files of a forest: complete trees, with schema version and labels in each footer.

parts = NodeParts(Path("forest/nodes"))
parts.trees()      # {'5f5d…', …}
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from malt_data.errors import SpecError
from malt_data.graders import require_grader
from malt_data.schemas.forest import NODES, VERSION
from malt_data.schemas.versions import check, require_columns, upgrade
from malt_data.storage.parquet import (
    LABELS,
    Footer,
    bounds,
    corrupt,
    count_rows,
    encoded,
    read_table,
)
from malt_data.storage.parts import Parts, retry_missing

if TYPE_CHECKING:
    import polars as pl

TREES_PER_PART = 100
"""What is written at once; `compact` merges them."""
_CLOCK_TICK_NS = 100_000_000
_REPEATED = ["question_id", "verdict", "finish_reason"]


class NodeParts(Parts):
    """The part files of a forest's nodes."""

    def __init__(self, folder: Path, schema: pa.Schema = NODES) -> None:
        """schema: the columns of the files, NODES or QUESTIONS."""
        super().__init__(folder)
        self._schema = schema
        self._known: set[str] = set()
        self._trees: set[str] = set()
        self._stamp = -1

    def version(self, path: Path) -> int:
        """Return the schema version of a file."""
        return check(self.footer(path).stamp, str(path))

    def read(self, path: Path, columns: list[str] | None = None) -> pa.Table:
        """Read a part, or some of its columns, upgraded to the current schema version.

        Of chosen columns, those that repeat themselves come as dictionaries, in half the time.
        """
        if columns is None or self.version(path) < VERSION:  # an upgrade needs all of them
            table = upgrade(super().read(path), str(path))
            return table if columns is None else table.select(columns)
        return read_table(path, columns, dictionary=_REPEATED)

    def rows(self, path: Path) -> int:
        """Return the number of rows in a file."""
        self.footer(path)
        return count_rows(path)

    def trees_in(self, path: Path) -> list[str]:
        """Return the ids of the trees in a part."""
        column = self.read(path, ["question_id"])["question_id"]
        trees: list[str] = encoded(column).dictionary.to_pylist()
        return trees

    def trees_like(self, prefix: str) -> dict[Path, list[str]]:
        """Return the ids of trees that start with `prefix`, of each part that has any.

        Only parts within whose bounds they can be are read: few, as trees are grown in order of id.
        """
        found = {}
        for path in self.paths():
            low, high = bounds(path, "question_id") or ("", prefix)
            if low[: len(prefix)] <= prefix <= high[: len(prefix)]:
                found[path] = [name for name in self.trees_in(path) if name.startswith(prefix)]
        return {path: names for path, names in found.items() if names}

    def tree(self, path: Path, name: str) -> "pl.DataFrame":
        """Return the nodes of one tree in a part, decoding little else."""
        import polars as pl

        wanted = pl.col("question_id") == name
        if self.version(path) < VERSION:
            return pl.DataFrame(self.read(path)).filter(wanted)
        try:  # in a sixth of the time that pyarrow takes
            return pl.scan_parquet(path, glob=False).filter(wanted).collect()
        except pl.exceptions.PolarsError as error:
            raise corrupt(path, error) from error

    def write(self, table: pa.Table, replaces: Iterable[Path] = ()) -> Path:
        """Write `table` (complete trees, NODES columns and metadata) as a new part."""
        path = super().write(table, replaces)
        self._known.add(path.name)
        self._trees.update(table["question_id"].unique().to_pylist())
        return path

    def trees(self) -> set[str]:
        """Return the ids of all trees on disk; files read before are not read again."""
        stamp = self.folder.stat().st_mtime_ns if self.folder.exists() else -1
        if stamp != self._stamp:
            retry_missing(self._learn_trees)
            # Within one clock tick, another change would leave the same modification time.
            settled = time.time_ns() - stamp > _CLOCK_TICK_NS
            self._stamp = stamp if settled else -1
        return self._trees

    def _learn_trees(self) -> None:
        for path in self.paths():
            if path.name not in self._known:
                self._trees.update(self.trees_in(path))
                self._known.add(path.name)

    def _check(self, path: Path, footer: Footer) -> None:
        version = check(footer.stamp, str(path))
        try:
            require_columns(footer.columns, self._schema, version)
        except ValueError as error:
            raise corrupt(path, error) from None
        if footer.labels is not None:
            try:
                require_grader(footer.labels.grader)
            except SpecError as error:
                raise corrupt(path, error) from None

    def _place(self, path: Path) -> str:
        """Merge parts with neighbouring ids, so that a query for an id can skip most of them."""
        low, _ = bounds(path, "question_id") or ("", "")
        return low

    def _merged(self, paths: Sequence[Path]) -> pa.Table | None:
        labels = {self.footer(path).labels for path in paths}
        if len(labels) > 1:
            return None  # an interrupted relabel must be finished first
        tables = [self.read(path) for path in paths]
        table = pa.concat_tables([t.replace_schema_metadata(None) for t in tables])
        label = labels.pop()
        metadata = {**NODES.metadata, **({LABELS: label.footer()} if label else {})}
        return table.replace_schema_metadata(metadata)
