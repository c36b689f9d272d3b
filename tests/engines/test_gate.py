"""The gate never exceeds its width, admits the lowest number first, and loses no slot."""

import asyncio
import random

import pytest

from malt_data.engines import Gate


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(20))
def test_random_schedules_respect_the_width_and_lose_no_slot(seed: int) -> None:
    """Tasks start, work, fail and are cancelled at random; the gate must end up empty."""
    chance = random.Random(seed)
    width = chance.randint(1, 5)

    async def run() -> None:
        gate, inside, most_inside, tasks = Gate(width), 0, 0, []

        async def work() -> None:
            nonlocal inside, most_inside
            async with gate.slot(chance.randint(-2, 2)):
                inside += 1
                most_inside = max(most_inside, inside)
                assert gate.running <= width
                try:
                    for _ in range(chance.randint(0, 4)):
                        await asyncio.sleep(0)
                    if chance.random() < 0.2:
                        raise ValueError
                finally:
                    inside -= 1

        for _ in range(100):
            tasks.append(asyncio.create_task(work()))
            if chance.random() < 0.4:
                chance.choice(tasks).cancel()
            if chance.random() < 0.5:
                await asyncio.sleep(0)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = {type(outcome) for outcome in outcomes}
        assert kinds <= {type(None), ValueError, asyncio.CancelledError}
        assert (gate.running, inside) == (0, 0)
        assert most_inside == width  # 100 tasks are enough to fill it
        await asyncio.wait_for(gate.has_room(), 1)

    asyncio.run(run())


def test_the_lowest_number_goes_first_and_ties_keep_the_order_of_arrival() -> None:
    order: list[str] = []

    async def scenario() -> None:
        gate, release = Gate(1), asyncio.Event()

        async def hold() -> None:
            async with gate.slot():
                await release.wait()

        async def work(name: str, priority: int) -> None:
            async with gate.slot(priority):
                order.append(name)

        async with asyncio.TaskGroup() as group:
            group.create_task(hold())
            await _settle()
            for name, priority in [("new", 0), ("a", -1), ("leaf", -3), ("b", -1)]:
                group.create_task(work(name, priority))
            await _settle()
            assert order == []
            release.set()

    asyncio.run(scenario())
    assert order == ["leaf", "a", "b", "new"]


def test_a_waiter_cancelled_on_its_turn_passes_the_slot_on() -> None:
    async def scenario() -> None:
        gate, release = Gate(1), asyncio.Event()

        async def hold() -> None:
            async with gate.slot():
                await release.wait()

        holder = asyncio.create_task(hold())
        await _settle()
        first, second = asyncio.create_task(hold()), asyncio.create_task(hold())
        await _settle()
        release.set()
        await asyncio.sleep(0)  # the holder is done; its slot is reserved for the first
        first.cancel()
        await asyncio.wait_for(asyncio.gather(holder, second), 1)
        assert first.cancelled()
        assert gate.running == 0

    asyncio.run(scenario())


def test_has_room_waits_for_a_slot_that_no_request_is_waiting_for() -> None:
    async def scenario() -> None:
        gate, releases = Gate(1), [asyncio.Event(), asyncio.Event()]

        async def hold(release: asyncio.Event) -> None:
            async with gate.slot():
                await release.wait()

        await asyncio.wait_for(gate.has_room(), 1)
        holders = [asyncio.create_task(hold(release)) for release in releases]
        await _settle()
        room = asyncio.create_task(gate.has_room())
        releases[0].set()  # the slot goes directly to the second holder
        await _settle()
        assert not room.done()
        releases[1].set()
        await asyncio.wait_for(asyncio.gather(room, *holders), 1)

    asyncio.run(scenario())
