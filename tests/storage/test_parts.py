"""Parts are written atomically, and no tree is ever read twice."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import make_forest

from malt_data.builders.claims import Claims
from malt_data.errors import ForestError, StorageError
from malt_data.forests.create import remove_empty
from malt_data.forests.forest import open_forest
from malt_data.forests.parts import NodeParts
from malt_data.forests.relabel import relabel
from malt_data.forests.verify import verify
from malt_data.schemas.forest import NODES, SCHEMA_KEY
from malt_data.schemas.spec import Labels
from malt_data.storage import parts as parts_module
from malt_data.storage.parquet import (
    LABELS,
    REPLACES,
    Footer,
    count_bytes,
    read_footer,
    write_table,
)


def trees(*names: str) -> pa.Table:
    """Return minimal rows of a part: only the tree's id matters here."""
    defaults: dict[pa.DataType, object] = {pa.string(): "x", pa.bool_(): False}
    columns = {
        field.name: pa.array(
            [None if field.nullable else defaults.get(field.type, 0)] * len(names)
            if field.name not in ("question_id", "role")
            else list(names)
            if field.name == "question_id"
            else ["generator"] * len(names)
        ).cast(field.type)
        for field in NODES
    }
    return pa.table(columns, schema=NODES)


def visible(folder: Path) -> list[str]:
    fresh = NodeParts(folder)
    return sorted(i for path in fresh.paths() for i in fresh.read(path)["question_id"].to_pylist())


def test_written_trees_are_read_back(tmp_path: Path) -> None:
    parts = NodeParts(tmp_path)
    assert parts.trees() == set()
    parts.write(trees("a", "b"))
    assert parts.trees() == NodeParts(tmp_path).trees() == {"a", "b"}


def test_parts_of_another_writer_are_seen(tmp_path: Path) -> None:
    parts = NodeParts(tmp_path)
    parts.write(trees("a"))
    assert parts.trees() == {"a"}
    for name in "bcdef":  # faster than the file system's clock ticks
        NodeParts(tmp_path).write(trees(name))
        assert name in parts.trees()


def test_compaction_keeps_every_tree_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = NodeParts(tmp_path)
    names = sorted(f"{i:04}" for i in range(250))
    for name in names:
        parts.write(trees(name))
    size = count_bytes(parts.paths()[0])
    with monkeypatch.context() as patch:
        patch.setattr(NodeParts, "full_size", 100 * size)
        parts.compact()
    assert len(parts.paths()) == 3
    assert visible(tmp_path) == names
    NodeParts(tmp_path).compact()
    assert len(parts.paths()) == 1
    assert visible(tmp_path) == names


def test_compaction_merges_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = NodeParts(tmp_path)
    names = [f"{i * 37 % 64:04}" for i in range(64)]
    for name in names:
        parts.write(trees(name))
    monkeypatch.setattr(NodeParts, "full_size", 16 * count_bytes(parts.paths()[0]))
    parts.compact()
    held = sorted(parts.trees_in(path) for path in parts.paths())
    assert len(held) == 4
    assert [name for ids in held for name in ids] == sorted(names)


def test_only_parts_within_whose_bounds_a_tree_can_be_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = NodeParts(tmp_path)
    first, both = parts.write(trees("a1", "b2")), parts.write(trees("b3", "b4"))
    bare = tmp_path / "part-bare.parquet"
    pq.write_table(trees("b5", "c1"), bare, write_statistics=False)  # as others may write them
    read: list[Path] = []
    trees_in = NodeParts.trees_in

    def recorded(self: NodeParts, path: Path) -> list[str]:
        read.append(path)
        return trees_in(self, path)

    monkeypatch.setattr(NodeParts, "trees_in", recorded)
    assert parts.trees_like("b") == {first: ["b2"], both: ["b3", "b4"], bare: ["b5"]}
    assert len(read) == 3
    read.clear()
    assert parts.trees_like("b4") == {both: ["b4"]}
    assert sorted(read) == sorted([both, bare])
    assert parts.trees_like("") == {first: ["a1", "b2"], both: ["b3", "b4"], bare: ["b5", "c1"]}
    assert parts.trees_like("d") == {}


def test_a_kill_between_merge_and_removal_duplicates_no_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = NodeParts(tmp_path)
    for name in "abc":
        parts.write(trees(name))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # the process died before this
        parts.compact()
    assert len(list(tmp_path.glob("part-*.parquet"))) == 4
    assert visible(tmp_path) == ["a", "b", "c"]
    NodeParts(tmp_path).compact()
    assert len(list(tmp_path.glob("part-*.parquet"))) == 1
    assert visible(tmp_path) == ["a", "b", "c"]


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_complete_parts(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        sys.path[:0] = [sys.argv[2], str(Path(sys.argv[2]).parent)]
        from test_parts import trees
        from malt_data.forests.parts import NodeParts
        parts = NodeParts(Path(sys.argv[1]))
        for i in range(100000):
            parts.write(trees(f"{sys.argv[3]}-{i:06}"))
            print(i, flush=True)
            if i % 10 == 9:
                parts.compact()
    """)
    reported = 0
    for attempt in range(6):
        arguments = [
            sys.executable,
            "-c",
            code,
            str(tmp_path),
            str(Path(__file__).parent),
            str(attempt),
        ]
        child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.05 + 0.037 * attempt)
        os.kill(child.pid, signal.SIGKILL)
        reported += 1 + len(child.stdout.read().splitlines())
        child.wait()
        child.stdout.close()
        names = visible(tmp_path)
        assert len(names) == len(set(names)) >= reported


def test_a_truncated_part_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    parts = NodeParts(tmp_path)
    good = parts.write(trees("a"))
    torn = tmp_path / "part-torn.parquet"
    torn.write_bytes(good.read_bytes()[:-20])
    with pytest.raises(StorageError, match=r"part-torn.parquet is corrupt.*Move it out"):
        NodeParts(tmp_path).trees()
    torn.unlink()
    assert visible(tmp_path) == ["a"]


@pytest.mark.parametrize("table", [pa.table({"a": [1]}), trees("a").replace_schema_metadata({})])
def test_a_foreign_part_is_refused(tmp_path: Path, table: pa.Table) -> None:
    write_table(tmp_path / "part-foreign.parquet", table)
    with pytest.raises(ForestError, match=r"part-foreign\.parquet is not a part of a forest"):
        NodeParts(tmp_path).trees()


CORRUPT = {
    "a version of 5,000 digits": {SCHEMA_KEY: b"forest/" + b"9" * 5000},
    "a version that is no text": {SCHEMA_KEY: b"\xff"},
    "no JSON": {REPLACES: b"part-a.parquet"},
    "a number": {REPLACES: b"5"},
    "a list in a list": {REPLACES: b'[["part-a.parquet"]]'},
    "100,000 levels": {REPLACES: b"[" * 100_000 + b"]" * 100_000},
    "a path": {REPLACES: b'["part-../../a.parquet"]'},
    "labels that are no text": {LABELS: b"\xff"},
    "labels of a future": {LABELS: b'{"grader": "auto", "threshold": 0.5, "pooling": "weighted"}'},
    "grader of a future": {LABELS: b'{"grader": "oracle", "threshold": 0.5, "pooling": "global"}'},
    "a threshold that is no number": {LABELS: b'{"threshold": NaN}'},
    "another key that is no text": {b"\xfe": b"\xff"},
}


@pytest.mark.parametrize("what", CORRUPT)
def test_a_corrupt_footer_is_named_by_every_reader(tmp_path: Path, what: str) -> None:
    forest = make_forest(tmp_path / "f", trees=2)
    path = forest.parts.paths()[1]
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, **CORRUPT[what]}), path)
    forest = open_forest(forest.folder)
    [problem] = verify(forest)
    assert path.name in problem
    assert len(problem) < 600
    readers: list[Callable[[], object]] = [
        lambda: forest.sql("FROM nodes"),
        lambda: forest.parts.trees(),
        lambda: forest.parts.compact(),
        lambda: relabel(forest, Labels(threshold=0.7)),
    ]
    for read in readers:
        with pytest.raises((ForestError, StorageError), match=path.name):
            read()


def test_column_metadata_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    field = pa.field("a", pa.list_(pa.field("item", pa.int8(), metadata={"doc": b"\xff"})))
    pq.write_table(pa.table({"a": [[1]]}, schema=pa.schema([field])), tmp_path / "part-a.parquet")
    with pytest.raises(StorageError, match=r"part-a\.parquet"):
        read_footer(tmp_path / "part-a.parquet")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_a_path_that_is_not_a_regular_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    forest = make_forest(tmp_path / "f", trees=2)
    make(forest.parts.folder / "part-odd.parquet")
    [problem] = verify(open_forest(forest.folder))
    assert "part-odd.parquet is not a regular file" in problem


def test_a_rewritten_part_still_replaces_the_same_parts(tmp_path: Path) -> None:
    parts = NodeParts(tmp_path)
    old = parts.write(trees("a"))
    merged = parts.write(trees("a"), replaces=[old])  # and here the merging process died
    parts.rewrite(merged, trees("a"))
    assert visible(tmp_path) == ["a"]
    with NodeParts(tmp_path).rewriting():
        assert not old.exists()


def test_a_part_rewritten_by_another_process_is_read_again(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=2)
    assert forest.unlabelled() == []
    relabel(open_forest(forest.folder), Labels(threshold=0.7))
    assert len(forest.unlabelled()) == 2


def test_readers_and_rewriters_exclude_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "_LOCK_TIMEOUT_SECONDS", 0.1)
    one, other = NodeParts(tmp_path), NodeParts(tmp_path)
    for name in "ab":
        one.write(trees(name))
    with one.reading():
        with other.reading():
            pass
        with pytest.raises(StorageError, match="in use by another process"), other.rewriting():
            pass
        other.compact()  # left to another time
        assert len(other.paths()) == 2
    with one.rewriting(), pytest.raises(StorageError, match="being rewritten"), other.reading():
        pass
    other.compact()
    assert len(one.paths()) == 1


def test_an_empty_forest_that_another_process_builds_into_is_not_removed(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=0)
    with forest.parts.reading():  # as a build does until it ends
        remove_empty(forest.folder)
    assert open_forest(forest.folder).done == set()
    remove_empty(forest.folder)
    assert not forest.folder.exists()


def test_a_merge_during_an_unlocked_read_is_retried(tmp_path: Path) -> None:
    parts = NodeParts(tmp_path)
    for name in "ab":
        parts.write(trees(name))
    fresh = NodeParts(tmp_path)
    footer = fresh.footer

    def merged_meanwhile(path: Path) -> Footer:
        parts.compact()
        return footer(path)

    fresh.footer = merged_meanwhile  # type: ignore[method-assign]
    assert len(fresh.paths()) == 1
    assert fresh.trees() == {"a", "b"}


def test_a_full_disk_is_a_storage_error_and_leaves_no_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    NodeParts(tmp_path).write(trees("a"))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device\. Free some space"):
        NodeParts(tmp_path).write(trees("b"))
    monkeypatch.undo()
    assert visible(tmp_path) == ["a"]
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_claim_is_visible_to_other_processes_and_ends_with_its_owner(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from malt_data.builders.claims import Claims\n"
        "claims = Claims(Path(sys.argv[1])); print(claims.take('00ff'), flush=True)\n"
        "sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdin is not None
    assert other.stdout.readline() == "True\n"
    mine = Claims(tmp_path)
    assert not mine.take("00ff")
    assert mine.take("00fe")
    other.kill()
    other.wait()
    other.stdout.close()
    other.stdin.close()
    assert mine.take("00ff")
    mine.close()
