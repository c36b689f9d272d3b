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

import fcntl
import json
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Json, StringConstraints, ValidationError

from malt_data.errors import ForestError
from malt_data.schemas.forest import NODES, SCHEMA_KEY
from malt_data.schemas.manifest import Labelled, sentence
from malt_data.schemas.versions import check, upgrade
from malt_data.storage.files import lock, settle, shared_lock, whole, writing

__all__ = [
    "Claims",
    "Footer",
    "Parts",
    "current",
    "lock",
    "read_footer",
    "read_schema",
    "read_table",
    "torn",
    "whole",
    "write_table",
    "write_text",
    "writing",
]

REPLACES = b"malt.replaces"
"""Footer key of a merged part: a JSON list of the part names that it stands for."""
LABELS = b"malt.labels"
"""Footer key of a part: the grader, threshold and pooling that its labels were made with."""

TREES_A_PART = 100
_ROW_GROUP = 122_880
_CLOCK_TICK_NS = 100_000_000
_PATIENCE_SECONDS = 10.0
_ATTEMPTS = 20
_MOVE_IT = (
    "Move it out of the folder and run what made it again (malt-data build, malt-data eval): only "
    "what it held is sampled anew."
)

T = TypeVar("T")
PartName = Annotated[str, StringConstraints(pattern=r"^part-[^/\\\x00-\x1f]+\.parquet$")]


class Footer(BaseModel):
    """What a part says of itself. Parts come from anywhere, so it is checked like any input."""

    model_config = ConfigDict(frozen=True)

    stamp: str | None = None
    """Its schema and version, e.g. `forest/2`."""
    replaces: Json[tuple[PartName, ...]] = ()
    labels: Json[Labelled] | None = None


class _Gone(ForestError):
    """A file that was there a moment ago: another process has merged it, or there is none."""


def write_table(path: Path, table: pa.Table) -> None:
    """Write `table` to `path`, zstd, whole or not at all: temporary file, fsync, rename.

    Raises ForestError when the disk is full or the folder cannot be written.
    """
    with whole(path) as temporary:
        pq.write_table(
            table.combine_chunks(),  # the same rows make the same pages, however they came together
            temporary,
            compression="zstd",
            compression_level=3,
            row_group_size=_ROW_GROUP,
            use_content_defined_chunking=True,  # after a relabel the Hub stores little anew
        )


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all, and remove what killed processes left beside it."""
    settle(path.parent)
    with whole(path) as temporary:
        temporary.write_text(text, "utf-8")


class Parts:
    """The part files of one folder; a footer is read once for each state of its file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._footers: dict[Path, tuple[tuple[int, int], Footer]] = {}
        self._sizes: dict[str, int] = {}
        self._trees: set[str] = set()
        self._stamp = -1

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep other processes from rewriting, merging or removing parts; adding them is free.

        For builds too, which add. Raises ForestError where a relabel or a merge goes on.
        """
        with shared_lock(self.folder, wait=_PATIENCE_SECONDS) as mine:
            if not mine:
                raise ForestError(
                    f"{self.folder} is being rewritten by another process (a relabel, or a build "
                    "that merges its parts). Wait for it and run the same command again."
                )
            yield

    @contextmanager
    def rewriting(self) -> Iterator[None]:
        """Be alone with the parts, what a killed process left removed.

        Raises ForestError where another process reads or writes them.
        """
        with lock(self.folder, wait=_PATIENCE_SECONDS) as mine:
            if not mine:
                raise ForestError(
                    f"{self.folder} is in use by another process (a build, a relabel, an export, "
                    "a query). Wait for it and run the same command again."
                )
            self._tidy()
            yield

    def paths(self) -> list[Path]:
        """Return the files that hold the trees, in name order, replaced ones left out.

        Raises ForestError for a file that is corrupt, foreign or newer than this code.
        """
        return current(self.folder, self.footer)

    def footer(self, path: Path) -> Footer:
        """Return what a file says of itself, its version checked."""
        state = _state(path)
        known, footer = self._footers.get(path, (None, None))
        if footer is None or known != state:
            footer = read_footer(path)
            check(footer.stamp, str(path))
            self._footers[path] = state, footer
        return footer

    def version(self, path: Path) -> int:
        """Return the schema version that a file was written with."""
        return check(self.footer(path).stamp, str(path))

    def read(self, path: Path) -> pa.Table:
        """Return a part as the newest schema version."""
        self.footer(path)
        return upgrade(read_table(path), str(path))

    def trees(self) -> set[str]:
        """Return the ids of all trees on disk; files already seen are not read again."""
        stamp = self.folder.stat().st_mtime_ns if self.folder.exists() else -1
        if stamp != self._stamp:
            _settled(lambda: [self._size(path) for path in self.paths()])
            # A folder changed within the clock's last tick may change again unnoticed.
            settled = time.time_ns() - stamp > _CLOCK_TICK_NS
            self._stamp = stamp if settled else -1
        return self._trees

    def _size(self, path: Path) -> int:
        """Return how many trees a part holds, and note their ids."""
        if path.name not in self._sizes:
            ids = _tree_ids(path)
            self._sizes[path.name] = len(ids)
            self._trees.update(ids)
        return self._sizes[path.name]

    def write(self, table: pa.Table, replaces: Iterable[Path] = ()) -> Path:
        """Add `table` (whole trees, NODES columns and metadata) as one new part."""
        names = [path.name for path in replaces]
        path = self.folder / f"part-{uuid.uuid4().hex[:16]}.parquet"
        write_table(path, _replacing(table, names))
        ids = table["question_id"].unique().to_pylist()
        self._sizes[path.name] = len(ids)
        self._trees.update(ids)
        return path

    def rewrite(self, path: Path, table: pa.Table) -> None:
        """Put `table`, the same trees, in place of a part, of which it keeps `malt.replaces`."""
        write_table(path, _replacing(table, self.footer(path).replaces))

    def compact(self) -> None:
        """Merge small parts into parts of about TREES_A_PART trees, and tidy up after a kill.

        Left to another time where another process reads or writes them.
        """
        with lock(self.folder, wait=False) as mine:
            if not mine:
                return
            self._tidy()
            batch: list[Path] = []
            size = 0
            for path in self.paths():
                if self._size(path) >= TREES_A_PART // 2:
                    continue
                batch.append(path)
                size += self._size(path)
                if size >= TREES_A_PART:
                    self._merge(batch)
                    batch, size = [], 0
            if len(batch) > 1:
                self._merge(batch)

    def _merge(self, paths: list[Path]) -> None:
        labels = {self.footer(path).labels for path in paths}
        if len(labels) > 1:
            return  # an interrupted relabel; it is finished first
        tables = [self.read(path) for path in paths]
        table = pa.concat_tables([t.replace_schema_metadata(None) for t in tables])
        label = labels.pop()
        metadata = {**NODES.metadata, **({LABELS: label.footer()} if label else {})}
        self.write(table.replace_schema_metadata(metadata), replaces=paths)
        for path in paths:
            path.unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Remove replaced parts and the temporary files of killed writers."""
        kept = set(self.paths())
        for path in self.folder.glob("part-*.parquet"):
            if path not in kept:
                path.unlink(missing_ok=True)
        settle(self.folder)


def current(folder: Path, footer: Callable[[Path], Footer]) -> list[Path]:
    """Return the part files of `folder` in name order, those that another one replaces left out.

    footer: reads what a part says of itself.
    """

    def look() -> list[Path]:
        found = sorted(folder.glob("part-*.parquet"))
        replaced: set[str] = set()
        for path in found:
            replaced.update(footer(path).replaces)
        return [path for path in found if path.name not in replaced]

    return _settled(look)


def _settled(look: Callable[[], T]) -> T:
    """Look again where another process merged, in the middle of it, parts that were listed."""
    for _ in range(_ATTEMPTS):
        try:
            return look()
        except _Gone:
            continue
    return look()


def _replacing(table: pa.Table, names: Sequence[str]) -> pa.Table:
    if not names:
        return table
    extra = {REPLACES: json.dumps(names).encode()}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **extra})


def read_footer(path: Path) -> Footer:
    """Return what a part says of itself; raise ForestError where that is corrupt."""
    metadata = read_schema(path).metadata or {}
    keys = {"stamp": SCHEMA_KEY, "replaces": REPLACES, "labels": LABELS}
    try:
        return Footer.model_validate({k: metadata[v] for k, v in keys.items() if v in metadata})
    except ValidationError as error:
        reason = sentence(error)[:160]
        raise ForestError(f"{path} has a corrupt footer ({reason}). {_MOVE_IT}") from None


def read_schema(path: Path) -> pa.Schema:
    """Return a Parquet file's schema; raise ForestError where it is corrupt or no Parquet file."""
    _state(path)
    try:
        schema = pq.read_schema(path)
        _require_text(schema)
    except FileNotFoundError as error:
        raise _gone(path) from error
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise torn(path, error) from error
    return schema


def _require_text(schema: pa.Schema) -> None:
    """Raise UnicodeDecodeError for names and metadata over which polars would panic."""
    for said in (schema.metadata or {}).items():
        b"".join(said).decode()
    fields = list(schema)
    while fields:
        field = fields.pop()
        for said in (field.metadata or {}).items():
            b"".join(said).decode()
        fields += [field.type.field(index) for index in range(field.type.num_fields)]


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Return a Parquet file, or some of its columns; raise ForestError where it is corrupt."""
    _state(path)
    try:
        return pq.read_table(path, columns=columns, partitioning=None)
    except FileNotFoundError as error:
        raise _gone(path) from error
    except (OSError, pa.ArrowException) as error:
        raise torn(path, error) from error


def _state(path: Path) -> tuple[int, int]:
    """Return what changes when a file is replaced; raise ForestError unless it is a plain file."""
    try:
        facts = path.stat()
    except FileNotFoundError as error:
        raise _gone(path) from error
    except OSError as error:
        raise torn(path, error) from error
    if not stat.S_ISREG(facts.st_mode):  # reading a pipe would wait for ever
        raise ForestError(f"{path} is not a regular file. Move it out of the folder.")
    return facts.st_ino, facts.st_mtime_ns


def _gone(path: Path) -> _Gone:
    return _Gone(f"{path} is missing. Restore it, or use a new folder.")


def torn(path: Path, error: Exception) -> ForestError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return ForestError(f"{path} is torn or no Parquet file ({reason}). {_MOVE_IT}")


def _tree_ids(path: Path) -> list[str]:
    ids: list[str] = read_table(path, ["question_id"])["question_id"].unique().to_pylist()
    return ids


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
