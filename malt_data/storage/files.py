"""Atomic writes of files and folders, and recovery after a killed process.

A file is written under a temporary name, flushed to disk and renamed; the rename commits it. The
writing process holds a lock on the temporary file, which the kernel releases however the process
ends. So `recover` can remove the files of dead processes at once and never touches those of live
ones.

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
"""The file that is locked to lock its folder."""
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(tmp|new)", re.DOTALL)
"""Temporary names: `tmp` is being written or removed, `new` is complete but not yet in place."""
_POLL_SECONDS = 0.05


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success flush it to disk and rename it to `path`.

    Raises StorageError if the disk is full or the folder is not writable.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked_temporary(path, folder=False) as (temporary, handle):
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
    """Yield a temporary folder next to `path`; on success rename it to `path`.

    path: a link stays one; the folder behind it is written. replace: overwrite an existing folder;
    otherwise a non-empty one is an error.
    """
    path = Path(os.path.realpath(path))
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        recover(path.parent, path.name)
        with _locked_temporary(path, folder=True) as (temporary, _):
            try:
                yield temporary
                complete = temporary.with_suffix(".new")
                temporary.rename(complete)
                _move_into_place(complete, path, replace)
                _sync(path.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def _move_into_place(complete: Path, path: Path, replace: bool) -> None:
    """Rename `complete` to `path`; if killed in between, `recover` finishes the job."""
    old = _temporary_path(path)
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
            old = _temporary_path(path)
    recover(path.parent, path.name)


def recover(folder: Path, name: str = "*") -> None:
    """Remove temporary files that dead processes left in `folder` while writing `name` (or any).

    A folder that was complete when its process died is moved into place if nothing else is there.
    Files that cannot be removed, or locked on this file system, are left alone.
    """
    pattern = name if name == "*" else glob.escape(name)
    for path in [
        *folder.glob(f".{pattern}.????????.new"),
        *folder.glob(f".{pattern}.????????.tmp"),
    ]:
        if (match := _TEMPORARY.fullmatch(path.name)) is None:
            continue
        with suppress(OSError), _lock_abandoned(path):
            if match[2] == "new" and not path.with_name(match[1]).exists():
                path.rename(path.with_name(match[1]))
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextmanager
def _lock_abandoned(path: Path) -> Iterator[None]:
    """Lock a temporary file or folder; raise BlockingIOError if its writer is still alive."""
    mode = os.O_RDONLY if path.is_dir() else os.O_RDWR  # NFS only locks files open for writing
    handle = os.open(path, mode | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


@contextmanager
def _locked_temporary(path: Path, *, folder: bool) -> Iterator[tuple[Path, int]]:
    """Create a locked temporary file or folder next to `path`; yield its path and handle."""
    while True:
        temporary = _temporary_path(path)
        if folder:
            temporary.mkdir()
        with suppress(FileNotFoundError):  # `recover` removed it before it was locked
            handle = os.open(
                temporary, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666
            )
            with suppress(OSError):  # without lock support, `recover` removes nothing
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, temporary):
                break
            os.close(handle)
    try:
        yield temporary, handle
    finally:
        os.close(handle)


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _is_at(handle: int, path: Path) -> bool:
    """Return whether the open file `handle` is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while writing `path` into a StorageError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "Free some space" if full else "Check the folder and its permissions"
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}. {hint}, then run the same "
            "command again; finished work is kept."
        ) from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def lock(folder: Path, *, wait: bool | float = True) -> Iterator[bool]:
    """Hold the exclusive lock of a folder; yield whether it was acquired.

    Take it to rewrite files: the manifest, parts being merged or relabelled. wait: seconds to wait
    for other processes; True waits forever.
    """
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = _acquire(folder / LOCK, fcntl.LOCK_EX, wait)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


@contextmanager
def shared_lock(folder: Path, *, wait: float) -> Iterator[bool]:
    """Hold the shared lock of a folder; yield False if another process is rewriting it.

    If the folder is missing, or can be neither locked nor written, no lock is needed: yield True.
    """
    try:
        handle = _acquire(folder / LOCK, fcntl.LOCK_SH, wait)
    except OSError:
        yield True
        return
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


def _acquire(path: Path, kind: int, wait: bool | float) -> int | None:
    """Return a handle that holds the lock, or None if it was still taken after `wait` seconds."""
    deadline = float("inf") if wait is True else time.monotonic() + wait
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            if kind == fcntl.LOCK_EX:
                raise
            handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            if _is_at(handle, path):  # otherwise its folder was removed meanwhile
                return handle
            os.close(handle)
        except BlockingIOError:
            os.close(handle)
            if time.monotonic() >= deadline:
                return None
            time.sleep(_POLL_SECONDS)
        except OSError:
            os.close(handle)
            raise


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically and remove temporary files of dead processes next to it."""
    recover(path.parent)
    with atomic_write(path) as temporary:
        temporary.write_text(text, "utf-8")
