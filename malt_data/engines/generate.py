"""A loaded model and the sampling of one batch of sequences: what `transformers.py` queues for.

loaded = load("smollm2-135m", None, None, print)
loaded.sample(rows, lambda: False)     # each row's future gets its tokens
"""

import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from malt_data.engines import Messages
from malt_data.engines.embedded import resolve
from malt_data.engines.quiet import quiet_libraries
from malt_data.errors import EngineDown

if TYPE_CHECKING:
    import torch

_STRETCH = 8
"""Tokens between two looks at which sequences have ended."""


Sampled = tuple[list[int], str, float]
"""Tokens, the end token included; the finish reason; seconds since the batch started."""


@dataclass(slots=True, eq=False)
class Row:
    """One sequence, waiting or being sampled; `done` gets its outcome."""

    prompt: list[int]
    seed: int
    temperature: float
    limit: int
    adapter: str | None
    priority: int
    done: "Future[Sampled]" = field(default_factory=Future)


def settle(row: Row, outcome: Sampled | BaseException) -> None:
    """Give a row its outcome, unless it has one or nobody waits for it any more."""
    if row.done.done() or not row.done.set_running_or_notify_cancel():
        return
    if isinstance(outcome, BaseException):
        row.done.set_exception(outcome)
    else:
        row.done.set_result(outcome)


@dataclass(frozen=True, slots=True)
class Loaded:
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
                with quiet_libraries(), warnings.catch_warnings():
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

    def sample(self, rows: list[Row], closing: Callable[[], bool]) -> None:
        """Complete every row, each handed over at the end of the stretch in which it ended.

        A prompt is read once, however many rows share it. `generate` then runs for a stretch of
        tokens at a time on the same cache, and rows that ended leave the batch in between:
        otherwise they would be computed on until the longest one ends.
        """
        import torch

        started = time.monotonic()
        device = self.model.device
        prompts = list(dict.fromkeys(tuple(row.prompt) for row in rows))
        places = {prompt: place for place, prompt in enumerate(prompts)}
        width = max(map(len, prompts))
        ids = torch.tensor([(self.ends[0],) * (width - len(p)) + p for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        with torch.inference_mode():
            read = self._generate(ids[:, :-1], mask[:, :-1], 1, closing)
            cache, sampler = read.past_key_values, _Sampler(rows, width, device)
            keep = [places[tuple(row.prompt)] for row in rows]
            while rows and not closing():
                if keep != list(range(len(ids))):
                    cache.batch_select_indices(torch.tensor(keep, device=device))
                    ids, mask = ids[keep], mask[keep]
                left = width + max(row.limit for row in rows) - ids.shape[1]
                output = self._generate(
                    ids, mask, min(_STRETCH, left), closing, past_key_values=cache, sampler=sampler
                )
                ids, cache = output.sequences, output.past_key_values
                mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)
                keep = self._hand_over(rows, ids[:, width:].tolist(), started)
                rows = [rows[index] for index in keep]
                sampler.select(keep)

    def _generate(
        self,
        ids: "torch.Tensor",
        mask: "torch.Tensor",
        tokens: int,
        closing: Callable[[], bool],
        sampler: "_Sampler | None" = None,
        **cache: Any,
    ) -> Any:
        import torch

        def stop(ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
            return torch.full((len(ids),), closing(), device=ids.device)

        return self.model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            logits_processor=[sampler] if sampler else [],
            stopping_criteria=[stop],
            return_dict_in_generate=True,
            **cache,
        )

    def _hand_over(self, rows: list[Row], sampled: list[list[int]], started: float) -> list[int]:
        """Settle the rows that have ended; return the indices of the others."""
        going = []
        for index, (row, tokens) in enumerate(zip(rows, sampled, strict=True)):
            tokens, ended = self._cut(tokens[: row.limit])
            if ended or len(tokens) == row.limit:
                settle(row, (tokens, "stop" if ended else "length", time.monotonic() - started))
            elif not row.done.cancelled():
                going.append(index)
        return going

    def _cut(self, tokens: list[int]) -> tuple[list[int], bool]:
        for index, token in enumerate(tokens):
            if token in self.ends:
                return tokens[: index + 1], True
        return tokens, False


class _Sampler:
    """What makes `generate`'s argmax a draw from softmax(logits / temperature).

    Each row has one uniform number a token, drawn ahead from its own seed, and takes the first
    token at which the cumulated probabilities exceed it. The sum is in float64, so that a rare
    token is as rare as the model says. torch.multinomial and the Gumbel trick draw a number for
    every entry of the vocabulary instead: three times as long a step on a CPU.
    """

    def __init__(self, rows: list[Row], width: int, device: "torch.device") -> None:
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


def load(name: str, device: str | None, dtype: str | None, note: Callable[[str], None]) -> Loaded:
    """Load a model on a device (None: the best there is); raise EngineDown where that fails."""
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
        with quiet_libraries():
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
    return Loaded(model, tokenizer, ends, getattr(config, "max_position_embeddings", 1 << 30))


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
