"""Files and folders that appear whole or not at all, and what a killed process left of them.

A file is written under a temporary name, flushed to the disk and renamed; the rename is the
commit. While it is written its process holds a lock on it, which the kernel drops when the
process ends in any way: so `recover` removes what a dead process left at once, and never touches
what a living one is writing.

    with atomic_write(Path("forest/forest.json")) as temporary:
        temporary.write_text("{}")
"""

import errno
import fcntl
import glob
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from malt_data.errors import StorageError

LOCK = ".lock"
"""The file in a folder that stands for it when it is locked."""
_LEFT = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(tmp|new)", re.DOTALL)
"""Names that only this module gives: `tmp` is being written or removed, `new` is complete."""
_POLL_SECONDS = 0.05


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success make it durable and rename it into place.

    Raises StorageError when the disk is full or the folder cannot be written.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _held(path, folder=False) as (temporary, handle):
            try:
                yield temporary
                os.fsync(handle)
                temporary.replace(path)
                _sync(path.parent)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise


@contextmanager
def atomic_folder(path: Path, *, replace: bool) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success rename it into place.

    replace: a folder that stands there gives way; else a folder with files in it is an error.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        recover(path.parent, path.name)
        with _held(path, folder=True) as (temporary, _):
            try:
                yield temporary
                complete = temporary.with_suffix(".new")
                temporary.rename(complete)
                _place(complete, path, replace)
                _sync(path.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def _place(complete: Path, path: Path, replace: bool) -> None:
    """Rename `complete` to `path`; after a kill in between, `recover` does the rest."""
    old = _temporary(path)
    while True:
        try:
            complete.rename(path)
            break
        except OSError as error:
            if not replace or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                shutil.rmtree(complete, ignore_errors=True)
                raise
        with suppress(FileNotFoundError):  # another process is replacing it too
            path.rename(old)
            old = _temporary(path)
    recover(path.parent, path.name)


def recover(folder: Path, name: str = "*") -> None:
    """Remove what dead processes left in `folder` of the file or folder `name` (or of any).

    A folder that was complete when its process died is put where it belongs, if nothing else is
    there. What cannot be removed, or not be locked by this file system, is left.
    """
    pattern = name if name == "*" else glob.escape(name)
    for path in [
        *folder.glob(f".{pattern}.????????.new"),
        *folder.glob(f".{pattern}.????????.tmp"),
    ]:
        if (match := _LEFT.fullmatch(path.name)) is None:
            continue
        with suppress(OSError), _dead(path):
            if match[2] == "new" and not path.with_name(match[1]).exists():
                path.rename(path.with_name(match[1]))
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextmanager
def _dead(path: Path) -> Iterator[None]:
    """Hold what a dead process left; raise BlockingIOError where its process lives."""
    mode = os.O_RDONLY if path.is_dir() else os.O_RDWR  # NFS locks only what is open for writing
    handle = os.open(path, mode | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


@contextmanager
def _held(path: Path, *, folder: bool) -> Iterator[tuple[Path, int]]:
    """Make a temporary file or folder beside `path`, locked; yield its path and its handle."""
    while True:
        temporary = _temporary(path)
        if folder:
            temporary.mkdir()
        with suppress(FileNotFoundError):  # swept in the instant before it is locked
            handle = os.open(
                temporary, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666
            )
            with suppress(OSError):  # without locks `recover` removes nothing
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, temporary):
                break
            os.close(handle)
    try:
        yield temporary, handle
    finally:
        os.close(handle)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _is_at(handle: int, path: Path) -> bool:
    """Tell whether the open file `handle` still stands at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says while `path` is written into a StorageError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "Free some space" if full else "Check the folder and its permissions"
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}. {hint} and run the same "
            "command again; everything finished before is kept."
        ) from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def lock(folder: Path, *, wait: bool | float = True) -> Iterator[bool]:
    """Hold the lock of a folder alone; yields whether this process has it.

    It guards what rewrites (the manifest, a merge, a relabel). wait: how many seconds for
    another process; True: for ever.
    """
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = _locked(folder / LOCK, fcntl.LOCK_EX, wait)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


@contextmanager
def shared_lock(folder: Path, *, wait: float) -> Iterator[bool]:
    """Hold the lock of a folder together with other readers; yields False where one rewrites it.

    A folder that is missing, or that this process can neither lock nor write, is not locked.
    """
    try:
        handle = _locked(folder / LOCK, fcntl.LOCK_SH, wait)
    except OSError:
        yield True
        return
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


def _locked(path: Path, kind: int, wait: bool | float) -> int | None:
    """Return a handle that holds the lock, None where another process kept it for `wait`."""
    end = float("inf") if wait is True else time.monotonic() + wait
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            if kind == fcntl.LOCK_EX:
                raise
            handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            if _is_at(handle, path):  # else its folder was removed meanwhile
                return handle
            os.close(handle)
        except BlockingIOError:
            os.close(handle)
            if time.monotonic() >= end:
                return None
            time.sleep(_POLL_SECONDS)
        except OSError:
            os.close(handle)
            raise


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all, and remove what killed processes left beside it."""
    recover(path.parent)
    with atomic_write(path) as temporary:
        temporary.write_text(text, "utf-8")
