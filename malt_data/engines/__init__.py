"""Engines: messages in, n completions out, each handed over the moment it is finished.

One small protocol for a model in this process (`transformers`, `vllm`) and for any
OpenAI-compatible server (`openai`); one module an engine, and only that module imports its
library. `open_engine` picks by name.

    async for sample, completion in engine.complete(request):
        ...   # children of this sample can start while its siblings are still running
"""

import asyncio
import heapq
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

Messages = tuple[dict[str, str], ...]
"""A chat: `{"role": "system"|"user"|"assistant", "content": text}` each."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call: the same messages sampled `len(seeds)` times.

    `priority`: lower goes first; builders pass minus the depth so that trees under way finish
    before new ones start.
    """

    messages: Messages
    seeds: tuple[int, ...]
    temperature: float
    max_tokens: int
    adapter: str | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """One sample. Token counts are the engine's own; None where it did not say.

    `latency`: seconds in the engine, from the moment it had a place there; waiting for one, and
    attempts that failed, do not count. Samples of one response share its latency. Two completions
    that differ only in how long they took are equal.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    seed: int | None
    latency: float | None = field(default=None, compare=False)


class Gate:
    """Bounds what is in flight, and lets the lowest priority number in first.

    It counts what the engine really runs (HTTP requests, sequences), not questions: a wide
    tree must not flood a server. `has_room` is awaited before a new tree is started, so that
    as few trees as possible are under way at once.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.running = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = 0
        self._watching: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def slot(self, priority: int = 0) -> AsyncIterator[None]:
        """Hold one of the `width` places."""
        if self.running < self.width:
            self._take()
        else:
            await self._queue(priority)
        try:
            yield
        finally:
            self._give()

    async def has_room(self) -> None:
        """Return as soon as a place is free and nobody waits for it."""
        while (
            self.running >= self.width
        ):  # no asyncio.Event: it is bound to one event loop for good
            free: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._watching.append(free)
            await free

    def _take(self) -> None:
        self.running += 1

    async def _queue(self, priority: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals += 1
        heapq.heappush(self._waiting, (priority, self._arrivals, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give()  # the place was handed over just before the cancellation
            raise

    def _give(self) -> None:
        while self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)  # the place passes on without being free in between
                return
        self.running -= 1
        for free in self._watching:
            if not free.done():
                free.set_result(None)
        self._watching.clear()


@asynccontextmanager
async def as_completed(
    work: Iterable[Coroutine[Any, Any, T]],
) -> AsyncIterator[Iterator[Awaitable[T]]]:
    """Run coroutines side by side; yields them as they finish. None outlives the block."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield asyncio.as_completed(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Engine(Protocol):
    """What a builder needs of a model."""

    model: str
    """Name written into every node."""
    gate: Gate

    def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Yield (sample index, completion) for each seed, in the order in which they land.

        Raises EngineError when one cannot be had after retries, EngineDown when none can.
        """
        ...

    async def close(self) -> None:
        """Free the model or the connections."""
        ...
