"""Parts: whole trees in Parquet files that appear complete or not at all.

A part is written to a temporary name, flushed to the disk and renamed; the rename is the commit.
Everything else (which trees are done, how many) is read back from the parts, so a process killed
at any instant leaves a sound forest. Small parts are merged by `compact`; a merged part names in
its footer the parts it replaces, and readers pass over those, so that even a kill between the
rename and the removal shows no tree twice.

Several writers share a folder: `Claims` locks a tree while it grows. The kernel drops the locks
of a dead process by itself.

    parts = Parts(Path("forest/nodes"))
    parts.write(table)
    parts.trees()      # {'5f5d…', …}
"""

import errno
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from malt_data.errors import ForestError
from malt_data.schemas.forest import NODES, SCHEMA_KEY
from malt_data.schemas.versions import check, stamp_of, upgrade

REPLACES = b"malt.replaces"
"""Footer key of a merged part: a JSON list of the part names that it stands for."""
LABELS = b"malt.labels"
"""Footer key of a part: the grader, threshold and pooling that its labels were made with."""

TREES_A_PART = 100
_ROW_GROUP = 122_880
_STALE_SECONDS = 3600
_CLOCK_TICK_NS = 100_000_000


def write_table(path: Path, table: pa.Table) -> None:
    """Write `table` to `path`, zstd, whole or not at all: temporary file, fsync, rename.

    Raises ForestError when the disk is full or the folder cannot be written.
    """
    with whole(path) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=3,
            row_group_size=_ROW_GROUP,
            use_content_defined_chunking=True,  # after a relabel the Hub stores little anew
        )


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(text, "utf-8")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success make it durable and rename it into place."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says while `path` is written into a ForestError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "Free some space" if full else "Check the folder and its permissions"
        raise ForestError(
            f"{path} could not be written: {error.strerror or error}. {hint} and run the same "
            "command again; everything finished before is kept."
        ) from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Parts:
    """The part files of one folder; footers are read once a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._footers: dict[str, dict[bytes, bytes]] = {}
        self._sizes: dict[str, int] = {}
        self._trees: set[str] = set()
        self._stamp = -1

    def paths(self) -> list[Path]:
        """Return the files that hold the trees, in name order, replaced ones left out.

        Raises ForestError for a file that is torn, foreign or newer than this code.
        """
        found = sorted(self.folder.glob("part-*.parquet"))
        replaced: set[str] = set()
        for path in found:
            replaced.update(json.loads(self.footer(path).get(REPLACES, b"[]")))
        return [path for path in found if path.name not in replaced]

    def footer(self, path: Path) -> dict[bytes, bytes]:
        """Return a file's own metadata, its version checked."""
        if path.name not in self._footers:
            schema = read_schema(path)
            check(stamp_of(schema), str(path))
            self._footers[path.name] = schema.metadata
        return self._footers[path.name]

    def version(self, path: Path) -> int:
        """Return the schema version that a file was written with."""
        return check(self.footer(path)[SCHEMA_KEY].decode(), str(path))

    def read(self, path: Path) -> pa.Table:
        """Return a part as the newest schema version."""
        return upgrade(read_table(path), str(path))

    def trees(self) -> set[str]:
        """Return the ids of all trees on disk; files already seen are not read again."""
        stamp = self.folder.stat().st_mtime_ns if self.folder.exists() else -1
        if stamp != self._stamp:
            for path in self.paths():
                if path.name not in self._sizes:
                    ids = _tree_ids(path)
                    self._sizes[path.name] = len(ids)
                    self._trees.update(ids)
            # A folder changed within the clock's last tick may change again unnoticed.
            settled = time.time_ns() - stamp > _CLOCK_TICK_NS
            self._stamp = stamp if settled else -1
        return self._trees

    def write(self, table: pa.Table, replaces: Iterable[Path] = ()) -> Path:
        """Add `table` (whole trees, NODES columns and metadata) as one new part."""
        names = [path.name for path in replaces]
        if names:
            extra = {REPLACES: json.dumps(names).encode()}
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), **extra})
        path = self.folder / f"part-{uuid.uuid4().hex[:16]}.parquet"
        write_table(path, table)
        ids = table["question_id"].unique().to_pylist()
        self._sizes[path.name] = len(ids)
        self._trees.update(ids)
        return path

    def compact(self) -> None:
        """Merge small parts into parts of about TREES_A_PART trees, and tidy up after a kill.

        One process at a time; safe beside writers, who only ever add.
        """
        with lock(self.folder, wait=False) as mine:
            if not mine:
                return
            self._sweep()
            self.trees()
            batch: list[Path] = []
            size = 0
            for path in self.paths():
                if self._sizes[path.name] >= TREES_A_PART // 2:
                    continue
                batch.append(path)
                size += self._sizes[path.name]
                if size >= TREES_A_PART:
                    self._merge(batch)
                    batch, size = [], 0
            if len(batch) > 1:
                self._merge(batch)

    def _merge(self, paths: list[Path]) -> None:
        labels = {self.footer(path).get(LABELS) for path in paths}
        if len(labels) > 1:
            return  # an interrupted relabel; it is finished first
        tables = [self.read(path) for path in paths]
        table = pa.concat_tables([t.replace_schema_metadata(None) for t in tables])
        metadata = {**NODES.metadata, **({LABELS: label} if (label := labels.pop()) else {})}
        self.write(table.replace_schema_metadata(metadata), replaces=paths)
        for path in paths:
            path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove replaced parts and the temporary files that a killed writer left."""
        kept = set(self.paths())
        for path in self.folder.glob("part-*.parquet"):
            if path not in kept:
                path.unlink(missing_ok=True)
        for path in self.folder.glob(".*.tmp"):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink(missing_ok=True)


def read_schema(path: Path) -> pa.Schema:
    """Return a Parquet file's schema; raise ForestError where it is torn or no Parquet at all."""
    try:
        return pq.read_schema(path)
    except FileNotFoundError:
        raise ForestError(f"{path} is missing. Restore it, or use a new folder.") from None
    except (OSError, pa.ArrowException) as error:
        raise torn(path, error) from error


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Return a Parquet file, or some of its columns; raise ForestError where it is torn."""
    try:
        return pq.read_table(path, columns=columns, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise torn(path, error) from error


def torn(path: Path, error: Exception) -> ForestError:
    reason = str(error).splitlines()[0][:160]
    return ForestError(
        f"{path} is torn or no Parquet file ({reason}). Move it out of the folder and run what "
        "made it again (malt-data build, malt-data eval): only what it held is sampled anew."
    )


def _tree_ids(path: Path) -> list[str]:
    ids: list[str] = read_table(path, ["question_id"])["question_id"].unique().to_pylist()
    return ids


@contextmanager
def lock(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the advisory lock of a folder; yields whether this process has it.

    It guards what rewrites (the manifest, a compaction, a relabel); adding parts needs none.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("a")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


class Claims:
    """Locks trees for this process: one byte of `.claims` a tree, at an offset from its id.

    POSIX record locks: other processes see them (over NFS too), the kernel frees them when the
    process ends in any way, and the file stays empty.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / ".claims").open("a")

    def take(self, question_id: str) -> bool:
        """Return True if this process now holds the tree, False if another one does."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(question_id))
        except BlockingIOError:
            return False
        except OSError as error:
            raise ForestError(
                f"{self._file.name} cannot be locked ({error.strerror}): this file system has no "
                "locks. Build on a local disk, one folder a machine."
            ) from error
        return True

    def release(self, question_id: str) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _offset(question_id))

    def close(self) -> None:
        self._file.close()


def _offset(question_id: str) -> int:
    return int(question_id[:15], 16)  # 60 bits: fits a file offset, collisions are no concern
