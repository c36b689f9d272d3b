"""Replicas on a real Ray that are killed, stopped and misled, with a scripted engine in each."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import scripted
from scripted import Script, answer, replicas, samples

from malt_data.builders.build import build_forest
from malt_data.engines import Engine, Request
from malt_data.engines.loop import run_sync
from malt_data.engines.opening import open_engine
from malt_data.engines.replica import Replica
from malt_data.engines.replicas import Replicas
from malt_data.errors import EngineDown, EngineError, SpecError
from malt_data.schemas.spec import BuildSpec

if find_spec("ray") is None:  # not imported: Cluster has to set its environment before
    pytest.skip("needs Ray", allow_module_level=True)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Ray for all tests of the module, on the loopback address; return its address."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # replicas import `scripted`
    from malt_data.engines.cluster import Cluster

    cluster = run_sync(Cluster.open(None))
    from ray import get_runtime_context  # after Cluster has set what it reads when imported

    yield get_runtime_context().gcs_address
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


def malt(folder: Path, seconds: float, *arguments: object) -> "subprocess.Popen[str]":
    """Start the command line with scripted engines that write into `folder`."""
    folder.mkdir()
    command = [sys.executable, scripted.__file__, str(folder), str(seconds), "30"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Wait for a command to succeed; return what it wrote to stdout and stderr."""
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    return stdout, stderr


def nodes(forest: Path) -> list[dict[str, Any]]:
    """Return the nodes of a forest without their latency, in the order of their ids."""
    parts = forest.glob("nodes/part-*.parquet")
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    return sorted(
        ({k: v for k, v in row.items() if k != "latency"} for row in rows),
        key=lambda row: str(row["node_id"]),
    )


def await_replicas(folder: Path, count: int) -> list[int]:
    deadline = time.monotonic() + 120  # on a busy machine Ray takes its time
    while len(pids := replicas(folder)) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(pids) == count
    return pids


def test_where_a_replica_is_killed_the_forest_is_that_of_one_process(
    ray: str, tmp_path: Path
) -> None:
    questions = write_questions(tmp_path / "q.jsonl", 60)
    build = ("build", "--questions", questions, "--n", 2, "--out")
    alone = malt(tmp_path / "a", 0.0, *build, tmp_path / "alone")
    two = malt(tmp_path / "b", 0.05, *build, tmp_path / "two", "--replicas", 2, "--ray", ray)
    pids = await_replicas(tmp_path / "b", 2)
    time.sleep(0.5)
    kill(pids[:1])
    stdout, stderr = ended(two)
    assert "is lost (its process or its node died); starting it again" in stderr
    assert stdout.startswith(f"60 of 60 trees in {tmp_path / 'two'} (60 new): 840 completions")
    assert stdout.count("\n") == 1  # Ray's "A worker died" is not there
    ended(alone)
    assert len(nodes(tmp_path / "alone")) == 60 * 14
    assert nodes(tmp_path / "two") == nodes(tmp_path / "alone")
    assert not replicas(tmp_path / "b")


def test_where_a_node_is_taken_away_the_forest_is_that_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    questions = write_questions(tmp_path / "q.jsonl", 60)
    build = ("build", "--questions", questions, "--n", 2, "--out")
    alone = malt(tmp_path / "a", 0.0, *build, tmp_path / "alone")
    small: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20}
    folder = tempfile.mkdtemp(prefix="malt-", dir="/tmp")  # a short name: sockets are in it
    monkeypatch.setenv("RAY_TMPDIR", folder)
    Path(folder, "ray").mkdir()
    cluster = Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False})
    try:
        others = [cluster.add_node(**small) for _ in range(2)]  # the command joins the head
        options = ("--replicas", 3, "--ray", cluster.address)
        three = malt(tmp_path / "b", 0.1, *build, tmp_path / "three", *options)
        pids = await_replicas(tmp_path / "b", 3)
        time.sleep(0.5)
        left = next(node for node in others if workers(node) & set(pids))
        cluster.remove_node(left, allow_graceful=False)
        stdout, stderr = ended(three)
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
        shutil.rmtree(folder, ignore_errors=True)
    assert "is lost" in stderr
    assert stdout.count("\n") == 1
    ended(alone)
    assert nodes(tmp_path / "three") == nodes(tmp_path / "alone")


def workers(node: Any) -> set[int]:
    """Return the workers of one of Ray's nodes."""
    raylet = node.all_processes["raylet"][0].process
    return {child.pid for child in psutil.Process(raylet.pid).children(recursive=True)}


def test_replicas_end_with_their_driver_even_one_that_is_stopped(tmp_path: Path) -> None:
    questions = write_questions(tmp_path / "q.jsonl", 60)
    build = ("build", "--questions", questions, "--n", 2, "--replicas", 2, "--out")
    terminated = malt(tmp_path / "a", 0.5, *build, tmp_path / "one")
    killed = malt(tmp_path / "b", 0.5, *build, tmp_path / "two")
    await_replicas(tmp_path / "a", 2)
    kill(await_replicas(tmp_path / "b", 2)[:1], signal.SIGSTOP)
    others = psutil.Process(terminated.pid).children(recursive=True)
    terminated.terminate()
    killed.kill()
    _, stderr = terminated.communicate(timeout=30)
    assert "Traceback" not in stderr
    assert not replicas(tmp_path / "a")
    assert not psutil.wait_procs(others, timeout=5)[1]
    killed.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while replicas(tmp_path / "b") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not replicas(tmp_path / "b")


def test_an_evaluation_with_replicas_has_the_results_of_one_process(
    ray: str, tmp_path: Path
) -> None:
    """On the Ray of this module, reached through its address."""
    questions = write_questions(tmp_path / "q.jsonl", 4)
    eval = ("eval", "--questions", questions, "--settings", "sa,ma", "--seeds", 1, "--out")
    alone = malt(tmp_path / "a", 0.0, *eval, tmp_path / "alone")
    two = malt(tmp_path / "b", 0.0, *eval, tmp_path / "two", "--replicas", 2, "--ray", ray)
    outputs = [ended(process)[0].replace("/two", "/alone") for process in (alone, two)]
    assert "sa" in outputs[0]
    assert outputs[0] == outputs[1]


def test_another_version_on_a_node_stops_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with opened(Script(tmp_path), 1):
            pass

    monkeypatch.setattr("malt_data.engines.replicas.__version__", "0.0.0")
    with pytest.raises(EngineDown, match=r"this machine 0\.0\.0\. Run there: pip install"):
        run_sync(run())


def test_replicas_on_cpus_divide_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    Replica(Script(tmp_path), str(tmp_path), None)
    assert os.environ["OMP_NUM_THREADS"] == "7"
    Replica(Script(tmp_path), str(tmp_path), 1)
    assert os.environ["OMP_NUM_THREADS"] == str(cores)
    Replica(Script(tmp_path), str(tmp_path), 1000)
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_kills_of_several_kinds_change_nothing(tmp_path: Path) -> None:
    """The driver is killed too, and run again; see the benchmark."""
    script = Path(__file__).parents[2] / "benchmarks" / "kills.py"
    command = [sys.executable, str(script), "--kills", "3", "--trees", "60", "--pause", "0.3"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 differ\n" in run.stdout


def test_the_requests_of_a_tree_go_to_one_replica(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(Script(tmp_path)) as engine:
            async with asyncio.timeout(30):
                while not all(host.ready for host in engine._hosts):  # else one gets all trees
                    await asyncio.sleep(0.05)
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
        async with opened(Script(tmp_path, faults=(("9 plus", "bug"),)), 1) as engine:
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
        async with opened(Script(tmp_path, opening=opening), 1):
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


def test_a_ray_that_does_not_start_is_an_error_and_so_is_one_that_hangs(
    ray: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray as module

    from malt_data.engines import cluster

    def start() -> None:
        run_sync(cluster._start(module, tmp_path, threading.Event()))

    with pytest.raises(EngineDown, match=r"did not start on this machine: .*ray\.init twice"):
        start()
    monkeypatch.setattr(cluster, "_START_SECONDS", 0.0)
    with pytest.raises(EngineDown, match=r"no answer for 0 s\. Run the same command again"):
        start()


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
def test_a_model_in_a_replica_grows_the_forest_of_one_process(ray: str, tmp_path: Path) -> None:
    """The command line with the embedded model; only facts reach stdout."""
    command = [sys.executable, "-m", "malt_data", "build", "--limit", "2", "--n", "1"]
    command += ["--temperature", "0", "--max-tokens", "8", "--out"]
    runs = [
        subprocess.Popen(
            [*command, str(tmp_path / name), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, options in (("one", []), ("two", ["--replicas", "1", "--ray", ray]))
    ]
    for run in runs:
        assert ended(run)[0].count("\n") == 1
    forests = [
        [(row["node_id"], row["text"], row["label"]) for row in nodes(tmp_path / name)]
        for name in ("one", "two")
    ]
    assert len(forests[0]) == 6
    assert forests[0] == forests[1]


def test_build_forest_takes_replicas_by_its_spec(tmp_path: Path) -> None:
    spec = BuildSpec(engine="openai", replicas=2, limit=1)
    with pytest.raises(SpecError, match="replicas of its own"):
        build_forest(spec, tmp_path / "forest")
