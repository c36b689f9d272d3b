"""Engines: a prompt in, n completions out, each yielded as soon as it is finished.

One small protocol covers models in this process (`transformers`, `vllm`) and any OpenAI-compatible
server (`openai`). There is one module per engine, and only that module imports its library.
`open_engine` selects one by name.

    async for sample, completion in engine.complete(request):
        ...   # children of this sample can start while its siblings are still running
"""

import asyncio
import heapq
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

Messages = tuple[dict[str, str], ...]
"""A chat; each message is `{"role": "system"|"user"|"assistant", "content": text}`."""
Prompt = Messages | str
"""A chat, or plain text for a base model without a chat template."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call: the same prompt sampled `len(seeds)` times.

    `stop`: strings at which a completion ends; they are not part of its text. `priority`: lower
    goes first; builders pass minus the depth, so that started trees finish before new ones start.
    sampling: further parameters, as the engine calls them (`top_p`, …). template: variables of the
    chat template (`enable_thinking`, …). tree: the tree (or question) that it belongs to; requests
    of one tree share prefixes. eager: somebody waits for each sample, not only for the last one.
    """

    prompt: Prompt
    seeds: tuple[int, ...]
    temperature: float
    max_tokens: int
    adapter: str | None = None
    stop: tuple[str, ...] = ()
    priority: int = 0
    sampling: Mapping[str, Any] = field(default_factory=dict)
    template: Mapping[str, Any] = field(default_factory=dict)
    tree: str = ""
    eager: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """One sample. Token counts are as reported by the engine, None if it reports none.

    `text`: without the model's `thinking`, which is None if it marked none. `completion_tokens`
    count both. `cached_tokens`: prompt tokens that the engine did not have to compute. `counted`:
    False while the counts are unknown; the sample is then yielded once more, with them.
    `latency`: seconds in the engine, excluding time spent waiting for a slot and failed attempts.
    Samples of one response share its latency. Latency and `cached_tokens`, which depend on what ran
    beside it, are ignored when completions are compared. `prompt_ids`: the tokens of the prompt,
    where the engine has them.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    seed: int | None
    latency: float | None = field(default=None, compare=False)
    thinking: str | None = None
    cached_tokens: int | None = field(default=None, compare=False)
    counted: bool = True
    prompt_ids: tuple[int, ...] | None = field(default=None, compare=False, repr=False)


class Gate:
    """A priority semaphore: bounds what is in flight, and admits the lowest priority number first.

    It counts what the engine actually runs (HTTP requests, sequences), not questions, so that a
    wide tree cannot flood a server. Builders await `has_room` before starting a new tree, so that
    as few trees as possible are in progress at once.

    width: the number of slots. It may be set at any time: more slots are handed out at once, fewer
      take effect as those in use are given back.
    limit: the most that `width` will become; builders size their own limits by it. None: `width`.
    """

    def __init__(self, width: int, limit: int | None = None) -> None:
        self._width = width
        self.limit = limit or width
        self.running = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = 0
        self._room_waiters: list[asyncio.Future[None]] = []

    @property
    def width(self) -> int:
        return self._width

    @width.setter
    def width(self, width: int) -> None:
        self._width = width
        self._hand_out()

    @asynccontextmanager
    async def slot(self, priority: int = 0) -> AsyncIterator[None]:
        """Hold one of the `width` slots."""
        if self.running < self.width:
            self.running += 1
        else:
            await self._queue(priority)
        try:
            yield
        finally:
            self._release()

    async def has_room(self) -> None:
        """Wait until a slot is free that no request is waiting for."""
        # Not an asyncio.Event, which stays bound to the first event loop that uses it.
        while self.running >= self.width:
            free: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._room_waiters.append(free)
            await free

    async def _queue(self, priority: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals += 1
        heapq.heappush(self._waiting, (priority, self._arrivals, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()  # the slot was handed over just before the cancellation
            raise

    def _release(self) -> None:
        self.running -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        """Give free slots to those who wait; if some remain, there is room."""
        while self._waiting and self.running < self.width:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                self.running += 1  # at once, so that nothing can take the slot in between
                turn.set_result(None)
        if self.running >= self.width:
            return
        for free in self._room_waiters:
            if not free.done():
                free.set_result(None)
        self._room_waiters.clear()


@asynccontextmanager
async def as_completed(
    coroutines: Iterable[Coroutine[Any, Any, T]],
) -> AsyncIterator[Iterator[Awaitable[T]]]:
    """Run coroutines concurrently, yielding them as they finish; cancel the rest on exit."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield asyncio.as_completed(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Engine(Protocol):
    """What a builder needs from a model."""

    model: str
    """The model name stored with every node."""
    gate: Gate

    def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Yield (sample index, completion) for each seed, in order of completion.

        If `request.eager`, a sample may be yielded twice: at its end, and once it is `counted`.
        Raises EngineError if a sample fails after retries, EngineDown if no request can succeed.
        """
        ...

    async def close(self) -> None:
        """Free the model or the connections."""
        ...
