"""The adaptive width: near the best fixed one on every simulated server, without many retries."""

import asyncio

import pytest
from openai_server import OpenAIServer
from simulated_servers import Server, refusing, saturating, simulate

from malt_data.engines import Gate, Request
from malt_data.engines.concurrency import MOST, Concurrency
from malt_data.engines.openai import OpenAIEngine


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("server", "best", "requests"),
    [(saturating(8), 8, 5_000), (saturating(200), 200, 40_000), (refusing(50), 50, 20_000)],
    ids=["saturates-at-8", "saturates-at-200", "refuses-above-50"],
)
def test_it_is_within_five_percent_of_the_best_fixed_width(
    server: Server, best: int, requests: int, seed: int
) -> None:
    fixed = simulate(server, requests, width=best, seed=seed)
    adaptive = simulate(server, requests, seed=seed)
    assert adaptive.rate >= 0.95 * fixed.rate
    assert adaptive.refused < 0.02 * requests


def test_it_follows_a_limit_that_falls_and_rises() -> None:
    def change(done: int, server: Server) -> None:
        server.slots = server.most = 100 if not 5_000 <= done < 15_000 else 20

    outcome = simulate(refusing(100), 40_000, change=change)
    assert outcome.refused < 0.02 * 40_000
    assert outcome.widths[-1][1] > 80


def test_it_never_exceeds_its_limit_nor_reaches_zero() -> None:
    outcome = simulate(saturating(5_000), 60_000)
    assert max(width for _, width in outcome.widths) == MOST
    concurrency = Concurrency()
    for second in range(100):
        concurrency.refused(float(second), 0.01)
    assert concurrency.width == 1


def test_it_does_not_grow_while_there_is_little_to_do() -> None:
    concurrency = Concurrency()
    for tick in range(1_000):
        concurrency.finished(tick * 0.1, 0.1, running=4)
    assert concurrency.width == 16


def test_a_gate_that_grows_admits_waiters_and_one_that_shrinks_ends_none() -> None:
    async def run() -> None:
        gate, release = Gate(1, limit=8), asyncio.Event()

        async def work() -> None:
            async with gate.slot():
                await release.wait()

        tasks = [asyncio.create_task(work()) for _ in range(6)]
        await asyncio.sleep(0)
        assert gate.running == 1
        gate.width = 4
        assert gate.running == 4
        gate.width = 2
        room = asyncio.create_task(gate.has_room())
        release.set()
        await asyncio.gather(*tasks)
        await asyncio.wait_for(room, 1)
        assert gate.running == 0

    asyncio.run(run())


def test_a_real_server_that_refuses_is_not_stormed() -> None:
    async def run(url: str) -> int:
        engine = OpenAIEngine("test-model", base_url=url, backoff_s=0.05)

        async def one(seed: int) -> None:
            request = Request(({"role": "user", "content": "2 + 2?"},), (seed,), 0.3, 50)
            assert [_ async for _ in engine.complete(request)]

        await asyncio.gather(*(one(seed) for seed in range(1_200)))
        await engine.close()
        return engine.gate.width

    with OpenAIServer(capacity=50, delay=0.5) as server:
        width = asyncio.run(run(server.base_url))
    assert 30 <= width <= 64
    assert len(server.bodies) - 1_200 < 0.05 * 1_200
