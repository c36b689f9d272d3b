"""Atomic writes, recovery after killed processes, and locks."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from malt_data.errors import StorageError
from malt_data.storage.files import atomic_folder, atomic_write, lock, recover, shared_lock

WRITER = """
import sys
from pathlib import Path
from malt_data.storage.files import atomic_folder, atomic_write
path = Path(sys.argv[1])
if sys.argv[2] == "file":
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        print(temporary.name, flush=True)
        sys.stdin.read()
with atomic_folder(path, replace=True) as temporary:
    (temporary / "a").write_text("new")
    print(temporary.name, flush=True)
    sys.stdin.read()
"""


def start(path: Path, kind: str) -> tuple["subprocess.Popen[str]", Path]:
    command = [sys.executable, "-c", WRITER, str(path), kind]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    name = child.stdout.readline().strip()
    assert name, "the writer has not started"
    return child, path.parent / name


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_recover_removes_only_files_of_dead_processes(tmp_path: Path, kind: str) -> None:
    child, temporary = start(tmp_path / "x", kind)
    foreign = tmp_path / ".x.1234.tmp"
    foreign.touch()
    recover(tmp_path)
    assert temporary.exists()
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert temporary.exists()
    recover(tmp_path, "y")
    assert temporary.exists()
    recover(tmp_path, "x")
    assert [path.name for path in tmp_path.iterdir()] == [foreign.name]


def test_recover_moves_a_complete_folder_into_place(tmp_path: Path) -> None:
    complete = tmp_path / ".x.0123abcd.new"
    complete.mkdir()
    (complete / "a").write_text("whole")
    recover(tmp_path)
    assert (tmp_path / "x" / "a").read_text() == "whole"
    (tmp_path / "x").rename(complete)
    with atomic_folder(tmp_path / "x", replace=True) as temporary:
        (temporary / "a").write_text("newer")
    assert (tmp_path / "x" / "a").read_text() == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    disk, link = tmp_path / "disk" / "x", tmp_path / "x"
    link.symlink_to(disk)
    for text in ("created", "replaced"):
        with atomic_folder(link, replace=True) as temporary:
            assert temporary.parent == disk.parent  # a rename cannot cross file systems
            (temporary / "a").write_text(text)
        assert link.is_symlink()
        assert (disk / "a").read_text() == text
    assert [path.name for path in disk.parent.iterdir()] == ["x"]


def test_a_folder_created_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_folder(tmp_path / "x", replace=False) as temporary:
            (temporary / "a").touch()
            (tmp_path / "x").mkdir()
            (tmp_path / "x" / "mine").touch()

    with pytest.raises(StorageError, match="x could not be written: Directory not empty"):
        write()
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "mine"]


def test_concurrent_writers_leave_a_complete_file_or_folder(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a") as one, atomic_write(tmp_path / "a") as other:
        one.write_text("one")
        other.write_text("other")
    with (
        atomic_folder(tmp_path / "b", replace=True) as one,
        atomic_folder(tmp_path / "b", replace=True) as other,
    ):
        (one / "c").write_text("one")
        (other / "c").write_text("other")
    assert (tmp_path / "a").read_text() == (tmp_path / "b" / "c").read_text() == "one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_lock_ends_with_its_folder_and_its_process(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    with lock(folder) as mine:
        assert mine
        with lock(folder, wait=False) as second, shared_lock(folder, wait=0) as third:
            assert (second, third) == (False, False)
        (folder / ".lock").unlink()  # as `remove_empty` does
        with lock(folder, wait=False) as fresh:
            assert fresh


def test_a_missing_folder_needs_no_lock_to_read(tmp_path: Path) -> None:
    with shared_lock(tmp_path / "none", wait=0) as mine:
        assert mine
    assert not (tmp_path / "none").exists()
