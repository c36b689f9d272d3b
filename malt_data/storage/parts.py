"""Parts: a folder of Parquet files, each written atomically, as in forests and results.

A part is written to a temporary name, flushed to disk and renamed; the rename commits it. All other
state (which trees are done, how many) is derived from the parts, so the folder is valid even if a
process is killed. `compact` merges small parts. The footer of a merged part lists the parts it
replaces and readers skip those, so no row is read twice even if a process is killed between the
rename and the removal.

    parts = NodeParts(Path("forest/nodes"))    # in forests/parts.py; see also evaluation/parts.py
    parts.write(table)
    parts.paths()
"""

import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from malt_data.errors import StorageError
from malt_data.storage.files import lock, recover, shared_lock
from malt_data.storage.parquet import (
    REPLACES,
    Footer,
    MissingFile,
    count_bytes,
    file_state,
    read_footer,
    read_table,
    write_table,
)

_LOCK_TIMEOUT_SECONDS = 10.0
_ATTEMPTS = 20

T = TypeVar("T")


class Parts(ABC):
    """The part files of one folder. Footers are cached until their file changes."""

    full_size = 32 * 2**20
    """The bytes, before compression, up to which `compact` merges parts.

    Every command opens each part, and some hold one for each processor.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._footers: dict[Path, tuple[tuple[int, int], Footer]] = {}

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep other processes from rewriting, merging or removing parts; they may still add some.

        Builds use it too, because they only add. Raises StorageError if a relabel or merge is
        running.
        """
        with shared_lock(self.folder, wait=_LOCK_TIMEOUT_SECONDS) as acquired:
            if not acquired:
                raise StorageError(
                    f"{self.folder} is being rewritten by another process (a relabel, or a build "
                    "merging its parts). Wait until it ends, then run the same command again."
                )
            yield

    @contextmanager
    def rewriting(self) -> Iterator[None]:
        """Lock out other processes, after removing leftovers of killed ones.

        Raises StorageError if another process is reading or writing parts.
        """
        with lock(self.folder, wait=_LOCK_TIMEOUT_SECONDS) as acquired:
            if not acquired:
                raise StorageError(
                    f"{self.folder} is in use by another process (a build, a relabel, an export, "
                    "a query). Wait until it ends, then run the same command again."
                )
            self._tidy()
            yield

    def paths(self) -> list[Path]:
        """Return the part files in name order, without replaced ones.

        Raises StorageError or ForestError for a file that is corrupt, not a part of this kind, or
        newer than this code.
        """

        def list_parts() -> list[Path]:
            paths = sorted(self.folder.glob("part-*.parquet"))
            replaced: set[str] = set()
            for path in paths:
                replaced.update(self.footer(path).replaces)
            return [path for path in paths if path.name not in replaced]

        return retry_missing(list_parts)

    def footer(self, path: Path) -> Footer:
        """Return the footer of a part, validated by `_check`."""
        state = file_state(path)
        cached_state, footer = self._footers.get(path, (None, None))
        if footer is None or cached_state != state:
            footer = read_footer(path)
            self._check(path, footer)
            self._footers[path] = state, footer
        return footer

    def read(self, path: Path) -> pa.Table:
        """Return the rows of a part."""
        self.footer(path)
        return read_table(path)

    def write(self, table: pa.Table, replaces: Iterable[Path] = ()) -> Path:
        """Add `table` as a new part that replaces the parts `replaces`."""
        names = [path.name for path in replaces]
        path = self.folder / f"part-{uuid.uuid4().hex[:16]}.parquet"
        write_table(path, _replacing(table, names))
        return path

    def rewrite(self, path: Path, table: pa.Table) -> None:
        """Overwrite a part with `table`, keeping its `malt.replaces` entry."""
        write_table(path, _replacing(table, self.footer(path).replaces))

    def compact(self) -> None:
        """Merge parts that are less than half full and remove leftovers of killed processes.

        Does nothing if another process is reading or writing parts.
        """
        with lock(self.folder, wait=False) as acquired:
            if not acquired:
                return
            self._tidy()
            batch: list[Path] = []
            filled = 0
            for path in sorted(self.paths(), key=self._place):
                size = count_bytes(path)
                if size >= self.full_size // 2:
                    continue
                batch.append(path)
                filled += size
                if filled >= self.full_size:
                    self._merge(batch)
                    batch, filled = [], 0
            if len(batch) > 1:
                self._merge(batch)

    @abstractmethod
    def _check(self, path: Path, footer: Footer) -> None:
        """Raise if a part is of another kind or newer than this code."""

    def _place(self, path: Path) -> str:
        """Return what the order in which parts are merged goes by."""
        return path.name

    @abstractmethod
    def _merged(self, paths: Sequence[Path]) -> pa.Table | None:
        """Return the merged table, including its metadata; None if the parts must not be merged."""

    def _merge(self, paths: list[Path]) -> None:
        table = self._merged(paths)
        if table is None:
            return
        self.write(table, replaces=paths)
        for path in paths:
            path.unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Remove replaced parts and the temporary files of killed writers."""
        kept = set(self.paths())
        for path in self.folder.glob("part-*.parquet"):
            if path not in kept:
                path.unlink(missing_ok=True)
        recover(self.folder)


def retry_missing(read: Callable[[], T]) -> T:
    """Call `read`; retry if another process merged parts after they were listed."""
    for _ in range(_ATTEMPTS):
        try:
            return read()
        except MissingFile:
            continue
    return read()


def _replacing(table: pa.Table, names: Sequence[str]) -> pa.Table:
    if not names:
        return table
    extra = {REPLACES: json.dumps(names).encode()}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **extra})
