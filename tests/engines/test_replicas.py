"""Replicas on a real Ray that are killed, stopped and misled, with a scripted engine in each."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from scripted import Script, answer, replicas, samples

from malt_data.builders.build import build_forest
from malt_data.engines import Engine, Request
from malt_data.engines.loop import run_sync
from malt_data.engines.opening import open_engine
from malt_data.engines.replicas import Replicas
from malt_data.errors import EngineDown, EngineError, SpecError
from malt_data.schemas.spec import BuildSpec

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def ray(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Start a Ray for all tests of the module, on the loopback address."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    from malt_data.engines.cluster import Cluster

    cluster = run_sync(Cluster.open(None))
    yield
    run_sync(cluster.close())
    patch.undo()


@asynccontextmanager
async def opened(script: Script, count: int = 2, **options: Any) -> AsyncIterator[Replicas]:
    engine = await Replicas.open(script, count=count, **options)
    try:
        yield engine
    finally:
        await engine.close()


async def ask(engine: Engine, number: int, n: int = 3) -> None:
    """Ask for n samples, and check that they are those of an engine that nobody disturbs."""
    prompt, seeds = f"{number} plus 3", tuple(range(number, number + n))
    request = Request(prompt, seeds, 0.0, 9, tree=str(number))
    got = [pair async for pair in engine.complete(request)]
    assert sorted(got) == [(i, answer(prompt, seed)) for i, seed in enumerate(seeds)]


async def wait_for_replicas(folder: Path, count: int) -> list[int]:
    async with asyncio.timeout(30):
        while len(found := replicas(folder)) < count:
            await asyncio.sleep(0.05)
    return found


def disturb(folder: Path, how: Callable[[list[int]], None], *, silence: float = 30.0) -> int:
    """Ask 80 questions, call `how` with the replicas in the middle; return samples made."""

    async def run() -> None:
        async with opened(Script(folder, 0.1), silence=silence) as engine:
            pids = await wait_for_replicas(folder, 2)
            asked = [asyncio.create_task(ask(engine, i)) for i in range(80)]
            await asyncio.sleep(0.7)
            how(pids)
            await asyncio.gather(*asked)

    run_sync(run())
    return len(samples(folder))


def kill(pids: list[int], how: int = signal.SIGKILL) -> None:
    for pid in pids:
        os.kill(pid, how)


def test_nothing_is_lost_where_one_is_killed(tmp_path: Path) -> None:
    assert 240 <= disturb(tmp_path, lambda pids: kill(pids[:1])) <= 264


def test_nothing_is_lost_where_all_are_killed(tmp_path: Path) -> None:
    assert 240 <= disturb(tmp_path, kill) <= 288


def test_nothing_is_lost_where_one_is_stopped(tmp_path: Path) -> None:
    made = disturb(tmp_path, lambda pids: kill(pids[1:], signal.SIGSTOP), silence=2.0)
    assert 240 <= made <= 264


def write_questions(path: Path, count: int) -> Path:
    rows = [
        f'{{"question": "What is {i} plus {i + 3}?", "answer": "#### {2 * i + 3}"}}'
        for i in range(count)
    ]
    path.write_text("\n".join(rows))
    return path


def grown(folder: Path, spec: BuildSpec, script: Script, count: int) -> list[dict[str, Any]]:
    """Grow a forest with an engine of this process (count 0) or with replicas; return its nodes."""
    from malt_data.builders.writer import Writer  # noqa: F401 - imported before the clock starts

    async def build() -> None:
        engine = await script(print) if count == 0 else await Replicas.open(script, count=count)
        try:
            await asyncio.to_thread(lambda: None)
            await _build_on_this_loop(spec, folder, engine)
        finally:
            await engine.close()

    run_sync(build())
    parts = sorted(folder.glob("nodes/part-*.parquet"))
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    return sorted(
        ({k: v for k, v in row.items() if k != "latency"} for row in rows),
        key=lambda row: str(row["node_id"]),
    )


async def _build_on_this_loop(spec: BuildSpec, folder: Path, engine: Engine) -> None:
    from malt_data.builders import build
    from malt_data.builders.plan import load
    from malt_data.graders import Grader
    from malt_data.prompts.resolve import resolve_sampling

    spec = resolve_sampling(spec, None, engine)
    with Grader(spec.grader) as grader:
        loaded = load(spec)
        spec = spec.model_copy(update={"split": loaded.split, "grader": grader.name})
        await build._build(spec, folder, loaded, engine, grader, lambda _: None, lambda _: None)


def test_two_replicas_grow_the_forest_of_one_process(tmp_path: Path) -> None:
    spec = BuildSpec(questions=str(write_questions(tmp_path / "q.jsonl", 20)), n=2)
    alone = grown(tmp_path / "alone", spec, Script(tmp_path), 0)
    assert len(alone) == 20 * 14
    assert grown(tmp_path / "two", spec, Script(tmp_path), 2) == alone


def test_the_requests_of_a_tree_go_to_one_replica(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(Script(tmp_path)) as engine:
            await wait_for_replicas(tmp_path, 2)
            await asyncio.gather(*(ask(engine, i) for i in range(20)))
            await asyncio.gather(*(ask(engine, i) for i in range(20)))

    run_sync(run())
    trees = [
        {line.split()[0] for line in path.read_text().splitlines()}
        for path in tmp_path.glob("samples-*")
    ]
    assert len(trees) == 2
    assert all(trees)
    assert not trees[0] & trees[1]


def test_an_error_fails_one_request_and_a_poisonous_one_nobody_else(tmp_path: Path) -> None:
    faults = (("91 plus", "error"), ("92 plus", "die"), ("93 plus", "down"))

    async def run() -> None:
        async with opened(Script(tmp_path, 0.05, faults=faults)) as engine:
            await ask(engine, 1)
            good = [asyncio.create_task(ask(engine, i)) for i in range(2, 40)]
            bad = [asyncio.create_task(ask(engine, i)) for i in (91, 92, 93)]
            errors = await asyncio.gather(*bad, return_exceptions=True)
            await asyncio.gather(*good)
            assert [type(error) for error in errors] == [EngineError] * 3
            assert "scripted" in str(errors[0])
            assert "replicas with it" in str(errors[1])
            assert "scripted" in str(errors[2])

    run_sync(run())


def test_a_bug_in_an_engine_is_shown_with_its_traceback(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(Script(tmp_path, faults=(("9 plus", "bug"),))) as engine:
            await ask(engine, 9)

    with pytest.raises(RuntimeError, match=r"in complete(.|\n)*KeyError: 'scripted'"):
        run_sync(run())


@pytest.mark.parametrize(
    ("opening", "kind", "message"),
    [("down", EngineDown, "no such model"), ("bug", RuntimeError, "KeyError: 'layer 7'")],
)
def test_an_engine_that_does_not_open_stops_everything(
    tmp_path: Path, opening: str, kind: type[Exception], message: str
) -> None:
    async def run() -> None:
        async with opened(Script(tmp_path, opening=opening)):
            pass

    with pytest.raises(kind, match=message):
        run_sync(run())


def test_a_withdrawn_request_is_aborted(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(Script(tmp_path, 0.3), 1) as engine:
            asked = asyncio.create_task(ask(engine, 1, 20))
            await asyncio.sleep(1)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            await asyncio.sleep(0.5)
            made = len(samples(tmp_path))
            await asyncio.sleep(1)
            assert 0 < len(samples(tmp_path)) == made < 20

    run_sync(run())


def test_gpus_that_nobody_has_are_not_waited_for(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(Script(tmp_path), num_gpus=1.0):
            pass

    with pytest.raises(EngineDown, match="Ray has 0 GPUs, room for 0"):
        run_sync(run())


def test_a_server_has_replicas_of_its_own() -> None:
    with pytest.raises(SpecError, match="data-parallel-size"):
        run_sync(open_engine(BuildSpec(engine="openai", replicas=2)))


def test_a_wrong_address_fails_within_seconds_and_stdout_stays_clean(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "malt_data", "build", "--limit", "1", "--ray", address]
        started = time.monotonic()
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert time.monotonic() - started < 20
    assert run.returncode == 1
    assert run.stdout == ""
    assert f"Error: No Ray cluster at {address}" in run.stderr


@pytest.mark.model
def test_replicas_of_a_model_grow_the_forest_of_one(tmp_path: Path) -> None:
    """The command line, with a replica that is killed on the way; only facts reach stdout."""
    forests = []
    for name, options in (("one", []), ("two", ["--replicas", "2"])):
        command = [sys.executable, "-m", "malt_data", "build", "--limit", "2", "--n", "2"]
        command += ["--temperature", "0", "--max-tokens", "16", "--out", str(tmp_path / name)]
        run = subprocess.run([*command, *options], capture_output=True, text=True, timeout=200)
        assert run.returncode == 0, run.stderr
        assert len(run.stdout.splitlines()) == 1, run.stdout
        parts = (tmp_path / name).glob("nodes/part-*.parquet")
        rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
        assert len(rows) == 28
        forests.append(sorted((row["node_id"], row["text"], row["label"]) for row in rows))
    assert forests[0] == forests[1]


def test_build_forest_takes_replicas_by_its_spec(tmp_path: Path) -> None:
    spec = BuildSpec(engine="openai", replicas=2, limit=1)
    with pytest.raises(SpecError, match="replicas of its own"):
        build_forest(spec, tmp_path / "forest")
