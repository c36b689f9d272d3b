"""Parts: Parquet files of one folder that appear complete or not at all. Forests and results have
their rows in such folders.

A part is written to a temporary name, flushed to the disk and renamed; the rename is the commit.
Everything else (which trees are done, how many) is read back from the parts, so a process killed
at any instant leaves a sound folder. Small parts are merged by `compact`; a merged part names in
its footer the parts it replaces, and readers skip those, so that even a kill between the rename
and the removal shows no row twice.

    parts = NodeParts(Path("forest/nodes"))    # forests/parts.py; evaluation/parts.py has the other
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
    file_state,
    read_footer,
    read_table,
    write_table,
)

_PATIENCE_SECONDS = 10.0
_ATTEMPTS = 20

T = TypeVar("T")


class Parts(ABC):
    """The part files of one folder; a footer is read once for each state of its file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._footers: dict[Path, tuple[tuple[int, int], Footer]] = {}

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep other processes from rewriting, merging or removing parts; adding them is free.

        For builds too, which add. Raises StorageError where a relabel or a merge is under way.
        """
        with shared_lock(self.folder, wait=_PATIENCE_SECONDS) as acquired:
            if not acquired:
                raise StorageError(
                    f"{self.folder} is being rewritten by another process (a relabel, or a build "
                    "that merges its parts). Wait for it and run the same command again."
                )
            yield

    @contextmanager
    def rewriting(self) -> Iterator[None]:
        """Be alone with the parts, what a killed process left removed.

        Raises StorageError where another process reads or writes them.
        """
        with lock(self.folder, wait=_PATIENCE_SECONDS) as acquired:
            if not acquired:
                raise StorageError(
                    f"{self.folder} is in use by another process (a build, a relabel, an export, "
                    "a query). Wait for it and run the same command again."
                )
            self._tidy()
            yield

    def paths(self) -> list[Path]:
        """Return the files that hold the rows, in name order, replaced ones left out.

        Raises StorageError or ForestError for a file that is corrupt, foreign or newer than this
        code.
        """

        def look() -> list[Path]:
            found = sorted(self.folder.glob("part-*.parquet"))
            replaced: set[str] = set()
            for path in found:
                replaced.update(self.footer(path).replaces)
            return [path for path in found if path.name not in replaced]

        return retry_missing(look)

    def footer(self, path: Path) -> Footer:
        """Return what a file says of itself, checked by `_check`."""
        state = file_state(path)
        known, footer = self._footers.get(path, (None, None))
        if footer is None or known != state:
            footer = read_footer(path)
            self._check(path, footer)
            self._footers[path] = state, footer
        return footer

    def read(self, path: Path) -> pa.Table:
        """Return a part as the newest schema version."""
        self.footer(path)
        return read_table(path)

    def write(self, table: pa.Table, replaces: Iterable[Path] = ()) -> Path:
        """Add `table` as one new part, which stands for the parts `replaces`."""
        names = [path.name for path in replaces]
        path = self.folder / f"part-{uuid.uuid4().hex[:16]}.parquet"
        write_table(path, _replacing(table, names))
        return path

    def rewrite(self, path: Path, table: pa.Table) -> None:
        """Put `table`, the same rows, in place of a part, of which it keeps `malt.replaces`."""
        write_table(path, _replacing(table, self.footer(path).replaces))

    def compact(self) -> None:
        """Merge parts that are less than half full, and tidy up after a kill.

        Left to another time where another process reads or writes them.
        """
        with lock(self.folder, wait=False) as acquired:
            if not acquired:
                return
            self._tidy()
            batch: list[Path] = []
            filled = 0.0
            for path in self.paths():
                share = self._share_of_a_part(path)
                if share >= 0.5:
                    continue
                batch.append(path)
                filled += share
                if filled >= 1:
                    self._merge(batch)
                    batch, filled = [], 0.0
            if len(batch) > 1:
                self._merge(batch)

    @abstractmethod
    def _check(self, path: Path, footer: Footer) -> None:
        """Raise where a part does not belong to such a folder, or is newer than this code."""

    @abstractmethod
    def _share_of_a_part(self, path: Path) -> float:
        """Return how full a part is, 1 for a full one."""

    @abstractmethod
    def _merged(self, paths: Sequence[Path]) -> pa.Table | None:
        """Return parts as one table, with the metadata it is stored with; None: leave them."""

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


def retry_missing(look: Callable[[], T]) -> T:
    """Look again where another process merged, in the middle of it, parts that were listed."""
    for _ in range(_ATTEMPTS):
        try:
            return look()
        except MissingFile:
            continue
    return look()


def _replacing(table: pa.Table, names: Sequence[str]) -> pa.Table:
    if not names:
        return table
    extra = {REPLACES: json.dumps(names).encode()}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **extra})
