"""SIGKILL before any file system change: following the error messages then completes the work.

For more kills at other points: MALT_KILLS=100 MALT_KILLS_SEED=1 pytest tests/forests/test_kills.py
"""

import json
import os
import random
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from killing import Running, start
from openai_server import OpenAIServer, Reply

from malt_data.forests.forest import open_forest
from malt_data.forests.labels import stamped
from malt_data.forests.parts import NodeParts
from malt_data.forests.verify import verify
from malt_data.storage.parquet import write_table

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("MALT_KILLS", "15"))
SEED = int(os.environ.get("MALT_KILLS_SEED", "0"))
TREES, GROWN = 6, 4


def answer(messages: list[dict[str, str]], seed: int | None, sample: int) -> Reply:
    """Answer right about half the time, depending only on the request.

    The kind math extracts `7`, numeric `$7$ apples`.
    """
    a, b = map(int, re.findall(r"(\d+) plus (\d+)", messages[-1]["content"])[0])
    error = random.Random(f"{messages}{seed}{sample}").randrange(2)
    return Reply(f"Final Answer: ${a + b + error}$ apples")


@dataclass(frozen=True)
class Workspace:
    """A folder with a forest `f`, and the server that grows it."""

    folder: Path
    server: OpenAIServer

    @property
    def forest(self) -> Path:
        return self.folder / "f"

    def run(self, *command: object, kill_at: int = 0, name: str = "log") -> Running:
        return start(list(command), self.folder / f"{name}.txt", kill_at)

    def build(self, trees: int, **options: int | str) -> Running:
        command = ["build", "--questions", self.folder.parent / "q.jsonl", "--engine", "openai",
                 "--model", "m", "--base-url", self.server.base_url, "--n", 2, "--limit", trees,
                 "--out", self.forest]  # fmt: skip
        return self.run(*command, **options)  # type: ignore[arg-type]

    def copy(self, name: str, work: str = "") -> "Workspace":
        shutil.copytree(self.folder, self.folder.parent / name)
        workspace = Workspace(self.folder.parent / name, self.server)
        if work == "again":
            corrupt_grades(workspace)
        return workspace


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A forest with a part for each of GROWN trees."""
    folder = tmp_path_factory.mktemp("kills")
    rows = [
        {"question": f"What is {i} plus {i + 3}?", "answer": str(2 * i + 3)} for i in range(TREES)
    ]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "base").mkdir()
    with OpenAIServer(answer, models=("m",)) as server:
        workspace = Workspace(folder / "base", server)
        assert workspace.build(GROWN).wait() == 0
        forest = open_forest(workspace.forest)
        [merged] = forest.parts.paths()
        frame = pl.read_parquet(merged).with_columns(pl.col("role").cast(pl.String))
        merged.unlink()
        for index, tree in enumerate(frame.partition_by("question_id", maintain_order=True)):
            table = stamped(tree, forest.manifest.labels)
            write_table(merged.with_name(f"part-{index:016}.parquet"), table)
        assert verify(open_forest(workspace.forest)) == []
        yield workspace


def corrupt_grades(workspace: Workspace) -> None:
    """Grade every answer as wrong, as a buggy older version might have."""
    forest = open_forest(workspace.forest)
    for path in forest.parts.paths():
        frame = pl.read_parquet(path).with_columns(
            pl.col("role").cast(pl.String),
            verdict=pl.lit("wrong"),
            correct=pl.lit(False),
            reward=pl.when(pl.col("depth") == 3).then(0.0),
            value=pl.lit(0.0),
            label=pl.lit(False),
        )
        write_table(path, stamped(frame, forest.manifest.labels))


RELABELS: dict[str, list[object]] = {
    "threshold": ["--threshold", 0.7],
    "pooling": ["--pooling", "local", "--threshold", 0.4],
    "grader": ["--grader", "math"],
    "again": ["--grader", "auto"],
    "copy": ["--grader", "math", "--out", "{folder}/copy"],
}
WORK = ("build", "merge", "merge and relabel", *RELABELS, "export")
PAIRS = [("build", "build"), ("build", "threshold"), ("build", "verify"), ("again", "pooling"),
         ("export", "threshold"), ("merge", "export")]  # fmt: skip


def start_work(workspace: Workspace, work: str, **options: int | str) -> Running:
    if work in ("build", "merge", "merge and relabel"):
        return workspace.build(TREES if work == "build" else GROWN, **options)
    if work == "verify":
        words: list[object] = ["verify", workspace.forest]
    elif work == "export":
        words = ["export", workspace.forest, "--role", "verifier", "--format", "dpo"]
    else:
        labels = [str(word).format(folder=workspace.folder) for word in RELABELS[work]]
        words = ["relabel", workspace.forest, *labels]
    return workspace.run(*words, **options)  # type: ignore[arg-type]


def finish(workspace: Workspace, work: str) -> None:
    """Act like a user: repeat the command, unless a message names another one to run first."""
    if work == "merge and relabel":
        assert start_work(workspace, "threshold").wait() == 0
    for _ in range(4):
        done = workspace.build(GROWN)
        if done.wait() == 0 or "has since been graded by 'math'" in done.printed:
            break  # such a forest cannot be extended with --grader auto
        assert "Traceback" not in done.printed
        suggested = re.search(r"malt-data (relabel .*)", done.printed)
        assert suggested, done.printed
        assert workspace.run(*shlex.split(suggested[1])).wait() == 0
    if work == "copy" and (workspace.folder / "copy").exists():
        return
    if work in RELABELS and committed(workspace.forest) != committed(
        workspace.folder.parent / "base" / "f"
    ):
        return
    done = start_work(workspace, work)
    assert done.wait() == 0, done.printed


def committed(forest: Path) -> object:
    return open_forest(forest).manifest.labelled


def rows(forest: Path) -> list[dict[str, object]]:
    return open_forest(forest).nodes().drop("latency").sort("node_id").collect().to_dicts()


def tables(workspace: Workspace) -> dict[str, object]:
    """Return everything a complete run produces, except paths and timings."""
    labels = open_forest(workspace.forest).manifest.labels
    content: dict[str, object] = {"nodes": rows(workspace.forest), "labels": labels}
    if (workspace.folder / "copy").exists():
        content["copy"] = rows(workspace.folder / "copy")
    for path in sorted(workspace.forest.glob("exports/*/*.parquet")):
        content[path.name] = pq.read_table(path).sort_by("chosen_id").to_pylist()
    return content


def require_sound(workspace: Workspace, expected: dict[str, object]) -> None:
    assert tables(workspace) == expected
    for forest in (workspace.forest, workspace.folder / "copy"):
        if forest.exists():
            check = workspace.run("verify", forest)
            assert check.wait() == 0, check.printed
    leftovers = [
        path for path in workspace.folder.rglob(".*") if path.suffix in (".tmp", ".new", ".old")
    ]
    assert leftovers == []


@pytest.fixture(scope="module")
def undisturbed(base: Workspace) -> dict[str, tuple[int, dict[str, object]]]:
    """Return the number of file system changes and the result of each piece of work."""
    results = {}
    for work in WORK:
        workspace = base.copy(f"whole-{work}", work)
        done = start_work(workspace, work)
        assert done.wait() == 0, done.printed
        if work == "merge and relabel":
            assert start_work(workspace, "threshold").wait() == 0
        results[work] = done.calls, tables(workspace)
    return results


def test_work_that_was_killed_can_be_completed(
    base: Workspace, undisturbed: dict[str, tuple[int, dict[str, object]]]
) -> None:
    source = random.Random(SEED)
    for kill in range(KILLS):
        work = WORK[kill % len(WORK)]
        calls, expected = undisturbed[work]
        points = [source.randint(1, calls) for _ in range(1 + kill % 2)]  # every other one twice
        workspace = base.copy(f"kill-{kill}", work)
        for point in points:
            start_work(workspace, work, kill_at=point).wait()
        with on_failure_print(f"kill {kill} of seed {SEED}: {work} before change {points}"):
            require_readable(workspace, base)
            kept = NodeParts(workspace.forest / "nodes").trees()
            base.server.requests.clear()
            finish(workspace, work)
            require_sound(workspace, expected)
            assert not kept & requested_ids(base.server)
        shutil.rmtree(workspace.folder)


WAIT = (
    "Wait until it ends|[Rr]un the same command again|in the middle of a relabel|is labelled with"
)
"""What the second of two concurrent commands may print."""


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_two_commands_at_once_one_of_them_killed(
    base: Workspace, undisturbed: dict[str, tuple[int, dict[str, object]]], pair: tuple[str, str]
) -> None:
    source = random.Random(f"{SEED}{pair}")
    for kill in range(1 + KILLS // 20):
        point = source.randint(1, undisturbed[pair[0]][0]) if kill else 0  # first without a kill
        workspace = base.copy(f"pair-{'-'.join(pair)}-{kill}")
        commands = [
            start_work(workspace, pair[0], kill_at=point, name="first"),
            start_work(workspace, pair[1], name="second"),
        ]
        with on_failure_print(f"kill {kill} of seed {SEED}: {pair} before change {point}"):
            for running in commands:
                if running.wait() not in (0, -9):
                    assert pair[1] != "verify", running.printed
                    assert re.search(WAIT, running.printed), running.printed
            require_readable(workspace, base)
            finish(workspace, pair[0])
            finish(workspace, pair[1])
            for work in pair:
                if work in RELABELS:  # they may have run in either order
                    assert start_work(workspace, work).wait() == 0
            assert workspace.build(GROWN).wait() == 0
            assert workspace.run("verify", workspace.forest, name="verify").wait() == 0
            require_readable(workspace, base)
            expected_trees = TREES if "build" in pair else GROWN
            assert len(NodeParts(workspace.forest / "nodes").trees()) == expected_trees
        shutil.rmtree(workspace.folder)


@contextmanager
def on_failure_print(context: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        print(context)  # noqa: T201
        raise


def require_readable(workspace: Workspace, base: Workspace) -> None:
    """Check that no tree is duplicated or lost, before anything is repaired."""
    nodes = samples(workspace)
    assert len(nodes) == len(set(nodes))
    assert set(samples(base)) <= set(nodes)


def samples(workspace: Workspace) -> list[tuple[object, ...]]:
    """Return the columns that a relabel must not change."""
    return open_forest(workspace.forest).nodes().select("node_id", "text", "seed").collect().rows()


def requested_ids(server: OpenAIServer) -> set[str]:
    """Return the ids of the questions that the server received."""
    from malt_data.schemas.ids import question_id

    texts = [body["messages"][-1]["content"] for body in server.bodies]
    return {question_id(re.findall(r"What is \d+ plus \d+\?", text)[0], None) for text in texts}
