"""vLLM in two replicas on Ray, on a CPU (takes a minute)."""

import asyncio
import os
import signal
import sys

import psutil
import pytest
from with_vllm import pytestmark as pytestmark

from malt_data.engines import Completion, Request
from malt_data.engines.loop import run_sync
from malt_data.engines.opening import open_engine
from malt_data.engines.replicas import Replicas
from malt_data.schemas.spec import SamplingSpec

OPTIONS = {"max_model_len": 1024, "kv_cache_memory_bytes": 100 << 20}
TEXT = "Say which of these numbers is even: " + ", ".join(map(str, range(100, 140)))


async def ask(engine: Replicas, tree: str) -> list[Completion]:
    request = Request(({"role": "user", "content": TEXT},), (1, 2), 0.7, 12, tree=tree)
    completions = dict([sample async for sample in engine.complete(request)])
    return [completions[0], completions[1]]


def test_two_replicas_sample_the_same_and_leave_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    before = psutil.Process().children(recursive=True)  # of tests that ran in this process
    started: list[psutil.Process] = []

    async def run() -> None:
        spec = SamplingSpec(engine="vllm", replicas=2, concurrency=4, engine_options=OPTIONS)
        engine = await open_engine(spec)
        assert isinstance(engine, Replicas)
        try:
            async with asyncio.timeout(240):
                while not all(host.ready for host in engine._hosts):
                    await asyncio.sleep(0.1)
            one, other = await asyncio.gather(ask(engine, "a"), ask(engine, "b"))
            assert one == other
            assert len(set(engine._dispatcher._homes.values())) == 2
            again = await ask(engine, "a")
            assert again == one
            assert all((each.cached_tokens or 0) >= 128 for each in again)
            pid = engine._hosts[0].pid
            of_one = psutil.Process(pid).children(recursive=True)
            assert len(of_one) >= 2  # vLLM's core and its worker
            os.kill(pid, signal.SIGKILL)
            assert not (await asyncio.to_thread(psutil.wait_procs, of_one, timeout=20))[1]
            children = psutil.Process().children(recursive=True)
            started.extend(child for child in children if child not in before)
        finally:
            await engine.close()

    run_sync(run())
    assert not psutil.wait_procs(started, timeout=10)[1]
