"""Parts appear whole or not at all, and no tree is ever seen twice."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pyarrow as pa
import pytest

from malt_data.errors import ForestError
from malt_data.forests import parts as parts_module
from malt_data.forests.parts import Claims, Parts, write_table
from malt_data.schemas.forest import NODES


def trees(*names: str) -> pa.Table:
    """Return rows that are enough for a part: only the tree's id matters here."""
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
    fresh = Parts(folder)
    return sorted(i for path in fresh.paths() for i in fresh.read(path)["question_id"].to_pylist())


def test_written_trees_are_read_back(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    assert parts.trees() == set()
    parts.write(trees("a", "b"))
    assert parts.trees() == Parts(tmp_path).trees() == {"a", "b"}


def test_parts_of_another_writer_are_noticed(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    parts.write(trees("a"))
    assert parts.trees() == {"a"}
    for name in "bcdef":  # faster than the file system's clock ticks
        Parts(tmp_path).write(trees(name))
        assert name in parts.trees()


def test_compaction_keeps_every_tree_once(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    names = sorted(f"{i:04}" for i in range(250))
    for name in names:
        parts.write(trees(name))
    parts.compact()
    assert len(parts.paths()) == 3
    assert visible(tmp_path) == names
    Parts(tmp_path).compact()
    assert visible(tmp_path) == names


def test_a_kill_between_merge_and_removal_shows_no_tree_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(tmp_path)
    for name in "abc":
        parts.write(trees(name))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # the process died before this
        parts.compact()
    assert len(list(tmp_path.glob("part-*.parquet"))) == 4
    assert visible(tmp_path) == ["a", "b", "c"]
    Parts(tmp_path).compact()
    assert len(list(tmp_path.glob("part-*.parquet"))) == 1
    assert visible(tmp_path) == ["a", "b", "c"]


def test_a_writer_killed_at_any_moment_leaves_whole_parts(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import sys
        sys.path.insert(0, sys.argv[2])
        from pathlib import Path
        from test_parts import trees
        from malt_data.forests.parts import Parts
        parts = Parts(Path(sys.argv[1]))
        for i in range(100000):
            parts.write(trees(f"{sys.argv[3]}-{i:06}"))
            print(i, flush=True)
            if i % 10 == 9:
                parts.compact()
    """)
    told = 0
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
        told += 1 + len(child.stdout.read().splitlines())
        child.wait()
        child.stdout.close()
        names = visible(tmp_path)
        assert len(names) == len(set(names)) >= told


def test_a_torn_part_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    good = parts.write(trees("a"))
    torn = tmp_path / "part-torn.parquet"
    torn.write_bytes(good.read_bytes()[:-20])
    with pytest.raises(ForestError, match=r"part-torn.parquet is torn.*Move it out"):
        Parts(tmp_path).trees()
    torn.unlink()
    assert visible(tmp_path) == ["a"]


@pytest.mark.parametrize("table", [pa.table({"a": [1]}), trees("a").replace_schema_metadata({})])
def test_a_foreign_part_is_refused(tmp_path: Path, table: pa.Table) -> None:
    write_table(tmp_path / "part-foreign.parquet", table)
    with pytest.raises(ForestError, match=r"part-foreign.parquet is no part of a forest"):
        Parts(tmp_path).trees()


def test_a_full_disk_is_one_sentence_and_leaves_no_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    Parts(tmp_path).write(trees("a"))
    monkeypatch.setattr(parts_module.os, "fsync", full)
    with pytest.raises(ForestError, match=r"No space left on device\. Free some space"):
        Parts(tmp_path).write(trees("b"))
    monkeypatch.undo()
    assert visible(tmp_path) == ["a"]
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_claim_is_seen_by_other_processes_and_dies_with_its_owner(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from malt_data.forests.parts import Claims\n"
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
