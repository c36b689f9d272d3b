"""A model in this process, on the CPU or a GPU, through transformers' `generate`.

Sequences queue here, one a seed; a worker thread takes up to `batch_size` of them, the deepest
in their trees first, and hands each completion over a few tokens after it ended. The next batch
starts when the last of them has ended.

What is sampled is softmax(logits / temperature) over the whole vocabulary and nothing else:
a model's own generation defaults (top_p, top_k, repetition_penalty, …) are dropped, because a
node's value is an expectation under the model, not under a filter of it. Only the model's end
tokens are kept. Temperature 0 is the likeliest token.

A seed stands for its own stream of uniform numbers, one a token, so what else is in the batch
does not matter to it. Padding does change the last bits of the logits, so that a number which
falls within those bits of the border between two tokens takes the other: in float32 rarely (96
of 96 completions of 48 tokens were the same alone and among 48), in bfloat16 often.

    engine = await TransformersEngine.open("smollm2-135m", batch_size=32)
    async for sample, completion in engine.complete(request): ...
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

from malt_data.engines import Completion, Gate, Request, as_completed
from malt_data.engines.generate import Loaded, Row, Sampled, load, settle
from malt_data.errors import EngineDown, EngineError

if TYPE_CHECKING:
    pass

_SETTLE_SECONDS = 0.02
"""How long a batch with room waits for the next arrival: requests come in bursts."""


class TransformersEngine:
    """See the module. `open` returns one whose model is loaded."""

    def __init__(
        self,
        model: str,
        *,
        batch_size: int = 64,
        device: str | None = None,
        dtype: str | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """device: None takes CUDA, then MPS, then the CPU. dtype: a name as in torch; None is
        float32 on the CPU, where it is the fast one, and bfloat16 elsewhere.
        """
        self.model = model
        self.gate = Gate(2 * batch_size)  # the next batch is ready when one ends
        self._batch_size = batch_size
        self._device, self._dtype, self._note = device, dtype, note
        self._loaded: Future[Loaded] = Future()
        self._loaded.set_running_or_notify_cancel()  # a waiter that gives up cancels nothing
        self._ended: Future[None] = Future()
        self._ended.set_running_or_notify_cancel()
        self._queue: list[Row] = []
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    @classmethod
    async def open(cls, model: str, **options: Any) -> Self:
        """Return an engine with its model loaded; `options` as for the class.

        Raises EngineDown where a library is missing or the model cannot be had.
        """
        engine = cls(model, **options)
        try:
            await engine._load()
        except BaseException:
            engine._end()  # not awaited: Ctrl-C must not wait for a download
            raise
        return engine

    async def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Yield (sample index, completion) for each seed, as their batches end.

        Raises EngineError where the prompt and `max_tokens` exceed the model's context.
        """
        loaded = await self._load()
        prompt = loaded.encode(request.messages)
        if len(prompt) + request.max_tokens > loaded.context:
            raise EngineError(
                f"A prompt of {len(prompt)} tokens and an answer of up to {request.max_tokens} "
                f"exceed the context of {self.model} ({loaded.context} tokens): "
                "lower --max-tokens, or take a model with a longer context."
            )

        async def sample(index: int, seed: int) -> tuple[int, Completion]:
            row = Row(
                prompt,
                seed,
                request.temperature,
                request.max_tokens,
                request.adapter,
                request.priority,
            )
            async with self.gate.slot(request.priority):
                tokens, reason, seconds = await self._put(row)
            text = loaded.decode(tokens)
            return index, Completion(text, reason, len(prompt), len(tokens), seed, seconds)

        async with as_completed(sample(i, seed) for i, seed in enumerate(request.seeds)) as landing:
            for landed in landing:
                yield await landed

    async def close(self) -> None:
        """End the batch that runs, within a token, and free the model."""
        self._end()
        if self._thread is not None:
            await asyncio.wrap_future(self._ended)
            self._thread.join()  # a daemon freeing tensors as the interpreter ends would crash it

    def _end(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    async def _load(self) -> "Loaded":
        if self._closing:
            raise EngineDown("The engine was closed.")
        loaded = self._loaded  # taken first: a thread that fails at once must not replace it
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name="malt-transformers", daemon=True
            )
            self._thread.start()
        return await asyncio.wrap_future(loaded)

    def _put(self, row: Row) -> "asyncio.Future[Sampled]":
        with self._changed:
            self._queue.append(row)
            self._changed.notify_all()
        return asyncio.wrap_future(row.done)

    def _work(self) -> None:
        try:
            loaded = load(self.model, self._device, self._dtype, self._note)
        except BaseException as error:  # noqa: BLE001 - carried over to whoever waits
            self._loaded.set_exception(error)
        else:
            self._loaded.set_result(loaded)
            while rows := self._next():
                self._sample(loaded, rows)
            for row in self._queue:
                settle(row, EngineDown("The engine was closed."))
            self._loaded = Future()  # frees the model
            self._loaded.set_exception(EngineDown("The engine was closed."))
        self._ended.set_result(None)

    def _sample(self, loaded: "Loaded", rows: list[Row]) -> None:
        failed: BaseException = EngineDown("The engine was closed.")
        try:
            loaded.use(rows[0].adapter)
            loaded.sample(rows, lambda: self._closing)
        except BaseException as error:  # noqa: BLE001 - carried over to whoever waits
            failed = error
            if "out of memory" in str(error):
                failed = EngineDown(
                    f"{self.model} ran out of memory with {len(rows)} sequences at once: "
                    "lower --concurrency or --max-tokens, and run the same command again."
                )
        for row in rows:
            settle(row, failed)

    def _next(self) -> list[Row]:
        """Wait for rows and return a batch of one adapter; empty when the engine closes."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                while (
                    len(self._queue) < self._batch_size
                    and not self._closing
                    and self._changed.wait(_SETTLE_SECONDS)
                ):
                    pass
                if self._closing:
                    return []
                waiting = [row for row in self._queue if not row.done.cancelled()]
                waiting.sort(key=lambda row: row.priority)  # stable: then in order of arrival
                batch = [row for row in waiting if row.adapter == waiting[0].adapter]
                batch = batch[: self._batch_size]
                self._queue = [row for row in waiting if row not in batch]
            if batch:
                return batch
