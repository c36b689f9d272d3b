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
import os
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from malt_data.engines import Completion, Gate, Messages, Request
from malt_data.engines.embedded import quiet, resolve
from malt_data.errors import EngineDown, EngineError

if TYPE_CHECKING:
    import torch

_STRETCH = 8
"""Tokens between two looks at which sequences have ended."""

_SETTLE_SECONDS = 0.02
"""How long a batch with room waits for the next arrival: requests come in bursts."""


@dataclass(slots=True, eq=False)
class _Row:
    """One sequence, waiting or being sampled. `done` gets the tokens, end token included."""

    prompt: list[int]
    seed: int
    temperature: float
    limit: int
    adapter: str | None
    priority: int
    done: "Future[tuple[list[int], str]]" = field(default_factory=Future)


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
        self._loaded: Future[_Loaded] = Future()
        self._loaded.set_running_or_notify_cancel()  # a waiter that gives up cancels nothing
        self._ended: Future[None] = Future()
        self._ended.set_running_or_notify_cancel()
        self._queue: list[_Row] = []
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
            row = _Row(
                prompt,
                seed,
                request.temperature,
                request.max_tokens,
                request.adapter,
                request.priority,
            )
            async with self.gate.slot(request.priority):
                tokens, reason = await self._put(row)
            text = loaded.decode(tokens)
            return index, Completion(text, reason, len(prompt), len(tokens), seed)

        tasks = [asyncio.create_task(sample(i, seed)) for i, seed in enumerate(request.seeds)]
        try:
            for landed in asyncio.as_completed(tasks):
                yield await landed
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

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

    async def _load(self) -> "_Loaded":
        if self._closing:
            raise EngineDown("The engine was closed.")
        loaded = self._loaded  # taken first: a thread that fails at once must not replace it
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name="malt-transformers", daemon=True
            )
            self._thread.start()
        return await asyncio.wrap_future(loaded)

    def _put(self, row: _Row) -> "asyncio.Future[tuple[list[int], str]]":
        with self._changed:
            self._queue.append(row)
            self._changed.notify_all()
        return asyncio.wrap_future(row.done)

    def _work(self) -> None:
        try:
            loaded = _load(self.model, self._device, self._dtype, self._note)
        except BaseException as error:  # noqa: BLE001 - carried over to whoever waits
            self._loaded.set_exception(error)
        else:
            self._loaded.set_result(loaded)
            while rows := self._next():
                self._sample(loaded, rows)
            for row in self._queue:
                _settle(row, EngineDown("The engine was closed."))
            self._loaded = Future()  # frees the model
            self._loaded.set_exception(EngineDown("The engine was closed."))
        self._ended.set_result(None)

    def _sample(self, loaded: "_Loaded", rows: list[_Row]) -> None:
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
            _settle(row, failed)

    def _next(self) -> list[_Row]:
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


def _settle(row: _Row, outcome: tuple[list[int], str] | BaseException) -> None:
    """Give a row its outcome, unless it has one or nobody waits for it any more."""
    if row.done.done() or not row.done.set_running_or_notify_cancel():
        return
    if isinstance(outcome, BaseException):
        row.done.set_exception(outcome)
    else:
        row.done.set_result(outcome)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model with what is needed to go from messages to tokens and back."""

    model: Any
    tokenizer: Any
    ends: tuple[int, ...]
    context: int
    adapters: dict[str, str] = field(default_factory=dict)

    def encode(self, messages: Messages) -> list[int]:
        ids: list[int] = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_dict=False
        )
        return ids

    def decode(self, tokens: list[int]) -> str:
        text: str = self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def use(self, adapter: str | None) -> None:
        """Switch to the LoRA adapter in a folder or on the Hub, or to the bare model."""
        if adapter is None:
            if self.adapters:
                self.model.disable_adapters()
            return
        try:
            if adapter not in self.adapters:
                name = f"adapter{len(self.adapters)}"
                with quiet(), warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Already found a `peft_config`")
                    self.model.load_adapter(adapter, adapter_name=name)
                self.adapters[adapter] = name
        except (ImportError, OSError, ValueError, RuntimeError) as error:
            raise EngineDown(
                f"The adapter {adapter} could not be loaded: {_first_line(error)} "
                "Check its folder and base model, and that peft is installed: pip install peft"
            ) from error
        self.model.enable_adapters()
        self.model.set_adapter(self.adapters[adapter])

    def sample(self, rows: list[_Row], closing: Callable[[], bool]) -> None:
        """Complete every row, each handed over at the end of the stretch in which it ended.

        A prompt is read once, however many rows share it. `generate` then runs for a stretch of
        tokens at a time on the same cache, and rows that ended leave the batch in between:
        otherwise they would be computed on until the longest one ends.
        """
        import torch

        device = self.model.device
        prompts = list(dict.fromkeys(tuple(row.prompt) for row in rows))
        places = {prompt: place for place, prompt in enumerate(prompts)}
        width = max(map(len, prompts))
        ids = torch.tensor([(self.ends[0],) * (width - len(p)) + p for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        with torch.inference_mode():
            read = self._generate(ids[:, :-1], mask[:, :-1], 1, closing)
            cache, draw = read.past_key_values, _Draw(rows, width, device)
            keep = [places[tuple(row.prompt)] for row in rows]
            while rows and not closing():
                if keep != list(range(len(ids))):
                    cache.batch_select_indices(torch.tensor(keep, device=device))
                    ids, mask = ids[keep], mask[keep]
                left = width + max(row.limit for row in rows) - ids.shape[1]
                output = self._generate(
                    ids, mask, min(_STRETCH, left), closing, past_key_values=cache, draw=draw
                )
                ids, cache = output.sequences, output.past_key_values
                mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)
                keep = self._hand_over(rows, ids[:, width:].tolist())
                rows = [rows[index] for index in keep]
                draw.select(keep)

    def _generate(
        self,
        ids: "torch.Tensor",
        mask: "torch.Tensor",
        tokens: int,
        closing: Callable[[], bool],
        draw: "_Draw | None" = None,
        **cache: Any,
    ) -> Any:
        import torch

        def stop(ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
            return torch.full((len(ids),), closing(), device=ids.device)

        return self.model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            logits_processor=[draw] if draw else [],
            stopping_criteria=[stop],
            return_dict_in_generate=True,
            **cache,
        )

    def _hand_over(self, rows: list[_Row], sampled: list[list[int]]) -> list[int]:
        """Settle the rows that have ended; return the indices of the others."""
        going = []
        for index, (row, tokens) in enumerate(zip(rows, sampled, strict=True)):
            tokens, ended = self._cut(tokens[: row.limit])
            if ended or len(tokens) == row.limit:
                _settle(row, (tokens, "stop" if ended else "length"))
            elif not row.done.cancelled():
                going.append(index)
        return going

    def _cut(self, tokens: list[int]) -> tuple[list[int], bool]:
        for index, token in enumerate(tokens):
            if token in self.ends:
                return tokens[: index + 1], True
        return tokens, False


class _Draw:
    """What makes `generate`'s argmax a draw from softmax(logits / temperature).

    Each row has one uniform number a token, drawn ahead from its own seed, and takes the first
    token at which the cumulated probabilities exceed it. The sum is in float64, so that a rare
    token is as rare as the model says. torch.multinomial and the Gumbel trick draw a number for
    every entry of the vocabulary instead: three times as long a step on a CPU.
    """

    def __init__(self, rows: list[_Row], width: int, device: "torch.device") -> None:
        import torch

        self._width = width  # of the prompts
        self._precise = torch.float32 if device.type == "mps" else torch.float64  # MPS has none
        numbers = torch.zeros(len(rows), max(row.limit for row in rows), dtype=torch.float64)
        for own, row in zip(numbers, rows, strict=True):
            own[: row.limit].uniform_(generator=torch.Generator().manual_seed(row.seed))
        self._numbers = numbers.to(device, self._precise)
        self._heat = torch.tensor([[row.temperature] for row in rows], device=device)

    def __call__(self, ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        import torch

        step = ids.shape[1] - self._width
        cold = self._heat == 0
        mass = (scores / self._heat.masked_fill(cold, 1)).softmax(-1)
        mass = mass.cumsum(-1, dtype=self._precise)
        aim = self._numbers[:, step : step + 1] * mass[:, -1:]
        token = torch.searchsorted(mass, aim, right=True).clamp_(max=scores.shape[1] - 1)
        token = torch.where(cold, scores.argmax(-1, keepdim=True), token)
        return scores.scatter_(1, token, torch.inf)

    def select(self, keep: list[int]) -> None:
        self._numbers, self._heat = self._numbers[keep], self._heat[keep]


def _load(name: str, device: str | None, dtype: str | None, note: Callable[[str], None]) -> _Loaded:
    # Idle OpenMP threads spin by default: with any other process (graders, a second shard) on
    # the same cores each layer then waits a turn. Measured on 2 cores: 3 to 5 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import torch
        import transformers
    except ImportError as error:
        raise EngineDown(
            f"The transformers engine needs torch and transformers ({error}): "
            "pip install 'malt-data[local]'"
        ) from error
    place = torch.device(device or _best_device())
    kind = getattr(torch, dtype or ("float32" if place.type == "cpu" else "bfloat16"))
    source = resolve(name, note)
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=kind)
            model = model.to(place).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise EngineDown(
            f"The model {name} could not be loaded: {_first_line(error)} "
            "Check its name, the network, and that the device has room for it."
        ) from error
    if not tokenizer.chat_template:
        raise EngineDown(
            f"{name} has no chat template, so it cannot be given messages: "
            "take its instruction-tuned variant (…-Instruct, …-it)."
        )
    ends = _ends(model, tokenizer)
    settings: Any = transformers.GenerationConfig
    model.generation_config = settings(eos_token_id=list(ends), pad_token_id=ends[0])
    config = model.config.get_text_config()
    return _Loaded(model, tokenizer, ends, getattr(config, "max_position_embeddings", 1 << 30))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _ends(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that end an answer: the model's (one or several) and the tokenizer's."""
    own = model.generation_config.eos_token_id
    found = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return tuple(dict.fromkeys(token for token in found if token is not None))
