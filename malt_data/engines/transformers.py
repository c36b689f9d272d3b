"""Run a model in this process, on the CPU or a GPU, with transformers' `generate`.

Sequences are queued, one per seed. A worker thread takes up to `batch_size` of them, deepest in
their trees first, and returns each completion within a few tokens of its end. The next batch starts
when the whole batch has finished.

Sampling is from softmax(logits / temperature) over the full vocabulary, unless a request's
`sampling` restricts it. A model's own generation defaults (top_p, top_k, repetition_penalty, …) are
dropped, because a node's value is an expectation under the model itself; only its EOS tokens are
kept. Temperature 0 is greedy decoding.

Each seed has its own stream of uniform numbers, one per token, so a completion does not depend on
the rest of the batch, except through padding: it perturbs the last bits of the logits, which can
change a token when the number is that close to a boundary. In float32 this is rare (96 of 96
completions of 48 tokens were the same alone and in a batch of 48), in bfloat16 it is common.

    engine = await TransformersEngine.open("smollm2-135m", batch_size=32)
    async for sample, completion in engine.complete(request): ...
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any, Self

from malt_data.engines import Completion, Gate, Request, as_completed
from malt_data.engines.generate import Loaded, Row, Sampled, load, settle
from malt_data.engines.prompts import cut
from malt_data.engines.thinking import opened_by, split
from malt_data.errors import EngineDown, EngineError

_SETTLE_SECONDS = 0.02
"""How long an incomplete batch waits for further requests, which arrive in bursts."""


class TransformersEngine:
    """An `Engine` for a local model; see the module. `open` returns one with the model loaded."""

    def __init__(
        self,
        model: str,
        *,
        batch_size: int = 64,
        note: Callable[[str], None] = lambda _: None,
        **options: Any,
    ) -> None:
        """options: `device`, by default CUDA, then MPS, then the CPU; and those of transformers'
        `from_pretrained`, such as `dtype`, by default float32 on the CPU and bfloat16 elsewhere.
        """
        self.model = model
        self.gate = Gate(2 * batch_size)  # so that the next batch is ready when one finishes
        self._batch_size = batch_size
        self._note, self._options = note, options
        self._loaded: Future[Loaded] = Future()
        self._loaded.set_running_or_notify_cancel()  # so that a cancelled waiter cannot cancel it
        self._stopped: Future[None] = Future()
        self._stopped.set_running_or_notify_cancel()
        self._queue: list[Row] = []
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    @classmethod
    async def open(cls, model: str, **options: Any) -> Self:
        """Return an engine with its model loaded; `options` as for the class.

        Raises EngineDown if a library is missing or the model cannot be loaded.
        """
        engine = cls(model, **options)
        try:
            await engine._load()
        except BaseException:
            engine._stop()  # not awaited: Ctrl-C must not wait for a download
            raise
        return engine

    async def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Yield (sample index, completion) for each seed, in order of completion.

        Raises EngineError if the prompt plus `max_tokens` exceeds the model's context, EngineDown
        if it is a chat and the model has no chat template.
        """
        loaded = await self._load()
        prompt = loaded.encode(request.prompt, request.template)
        if len(prompt) + request.max_tokens > loaded.context_length:
            raise EngineError(
                f"A prompt of {len(prompt)} tokens plus {request.max_tokens} for the answer exceed "
                f"the context of {self.model} ({loaded.context_length} tokens). "
                "Lower --max-tokens, or use a model with a longer context."
            )

        opened = opened_by(loaded.tokenizer, prompt)

        async def sample(index: int, seed: int) -> tuple[int, Completion]:
            row = Row(
                prompt,
                seed,
                request.temperature,
                request.max_tokens,
                request.adapter,
                request.priority,
                request.stop,
                request.sampling,
            )
            async with self.gate.slot(request.priority):
                sampled = await self._enqueue(row)
            text = cut(loaded.decode(sampled.tokens), request.stop)
            thinking, text = split(text, opened=opened)
            return index, Completion(
                text,
                sampled.reason,
                len(prompt),
                len(sampled.tokens),
                seed,
                sampled.seconds,
                thinking,
                sampled.cached,
                prompt_ids=tuple(prompt),
            )

        async with as_completed(sample(i, seed) for i, seed in enumerate(request.seeds)) as results:
            for result in results:
                yield await result

    async def close(self) -> None:
        """Stop the running batch within a token, and free the model."""
        self._stop()
        if self._thread is not None:
            await asyncio.wrap_future(self._stopped)
            self._thread.join()  # freeing tensors at interpreter shutdown would crash it

    def _stop(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    async def _load(self) -> "Loaded":
        if self._closing:
            raise EngineDown("The engine was closed.")
        loaded = self._loaded  # read first: a thread that fails immediately replaces it
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="malt-transformers", daemon=True)
            self._thread.start()
        return await asyncio.wrap_future(loaded)

    def _enqueue(self, row: Row) -> "asyncio.Future[Sampled]":
        with self._changed:
            self._queue.append(row)
            self._changed.notify_all()
        return asyncio.wrap_future(row.future)

    def _run(self) -> None:
        try:
            loaded = load(self.model, self._note, **self._options)
        except BaseException as error:  # noqa: BLE001 - passed on to the waiters
            self._loaded.set_exception(error)
        else:
            self._loaded.set_result(loaded)
            while rows := self._next_batch():
                self._sample(loaded, rows)
            for row in self._queue:
                settle(row, EngineDown("The engine was closed."))
            self._loaded = Future()  # frees the model
            self._loaded.set_exception(EngineDown("The engine was closed."))
        self._stopped.set_result(None)

    def _sample(self, loaded: "Loaded", rows: list[Row]) -> None:
        outcome: BaseException = EngineDown("The engine was closed.")
        try:
            loaded.set_adapter(rows[0].adapter)
            loaded.sample(rows, lambda: self._closing)
        except BaseException as error:  # noqa: BLE001 - passed on to the waiters
            outcome = error
            if "out of memory" in str(error):
                outcome = EngineDown(
                    f"{self.model} ran out of memory with {len(rows)} sequences at once. "
                    "Lower --concurrency or --max-tokens, and run the same command again."
                )
        for row in rows:
            settle(row, outcome)

    def _next_batch(self) -> list[Row]:
        """Wait for rows; return a batch that shares one adapter, empty when the engine closes."""
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
                waiting = [row for row in self._queue if not row.future.cancelled()]
                waiting.sort(
                    key=lambda row: row.priority
                )  # stable, so ties keep the order of arrival
                batch = [row for row in waiting if _alike(row, waiting[0])]
                batch = batch[: self._batch_size]
                self._queue = [row for row in waiting if row not in batch]
            if batch:
                return batch


def _alike(row: Row, other: Row) -> bool:
    """Return whether two rows can share a batch."""
    return row.adapter == other.adapter and row.sampling == other.sampling
