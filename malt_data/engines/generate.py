"""A loaded model, and sampling one batch of sequences with it; `transformers.py` does the queueing.

loaded = load("smollm2-135m", None, None, print)
loaded.sample(rows, lambda: False)     # each row's future receives its tokens
"""

import os
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from malt_data.engines import Prompt
from malt_data.engines.embedded import resolve
from malt_data.engines.prompts import encode
from malt_data.engines.quiet import quiet_libraries
from malt_data.errors import EngineDown, one_line

if TYPE_CHECKING:
    import torch

_CHUNK_TOKENS = 8
"""Tokens to generate before removing finished sequences from the batch."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What one sequence became.

    tokens: up to and including the EOS token or the one that completes a stop string. seconds:
    since the batch started. cached: prompt tokens that were computed for another row.
    """

    tokens: list[int]
    reason: str
    seconds: float
    cached: int


@dataclass(slots=True, eq=False)
class Row:
    """One sequence, queued or being sampled; `future` receives its outcome."""

    prompt: list[int]
    seed: int
    temperature: float
    max_tokens: int
    adapter: str | None
    priority: int
    stop: tuple[str, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    cached: int = 0
    future: "Future[Sampled]" = field(default_factory=Future)


def settle(row: Row, outcome: Sampled | BaseException) -> None:
    """Set the outcome of a row, unless it has one already or was cancelled."""
    if row.future.done() or not row.future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, BaseException):
        row.future.set_exception(outcome)
    else:
        row.future.set_result(outcome)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with its tokenizer, and the LoRA adapters loaded so far."""

    name: str
    model: Any
    tokenizer: Any
    eos_tokens: tuple[int, ...]
    context_length: int
    adapters: dict[str, str] = field(default_factory=dict)

    def encode(self, prompt: Prompt, variables: Mapping[str, Any] | None = None) -> list[int]:
        return encode(self.tokenizer, prompt, self.name, variables)

    def decode(self, tokens: list[int]) -> str:
        text: str = self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def set_adapter(self, adapter: str | None) -> None:
        """Activate a LoRA adapter from a folder or the Hub; None: the base model."""
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
        except load_errors() as error:
            raise EngineDown(
                f"The adapter {adapter} could not be loaded: {one_line(error)}. "
                "Check its folder and base model, and that peft is installed (pip install peft)."
            ) from error
        self.model.enable_adapters()
        self.model.set_adapter(self.adapters[adapter])

    def sample(self, rows: list[Row], closing: Callable[[], bool]) -> None:
        """Complete every row, settling each at the end of the chunk in which it finished.

        A prompt shared by several rows is processed once. `generate` then runs for one chunk of
        tokens at a time on the same cache, and finished rows are removed from the batch in between,
        rather than being computed until the longest one finishes.
        """
        import torch

        started = time.monotonic()
        device = self.model.device
        penalties, warpers = _processors(rows[0].sampling)
        _share_prompts(rows)
        prompts = list(dict.fromkeys(tuple(row.prompt) for row in rows))
        prompt_index = {prompt: index for index, prompt in enumerate(prompts)}
        width = max(2, *map(len, prompts))  # the last token of a prompt is not in the prefill
        ids = torch.tensor([(p[0],) * (width - len(p)) + p for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        with torch.inference_mode():
            prefill = self._generate(ids[:, :-1], mask[:, :-1], 1, closing)
            cache, sampler = prefill.past_key_values, _Sampler(rows, width, device, warpers)
            keep = [prompt_index[tuple(row.prompt)] for row in rows]
            while rows and not closing():
                if keep != list(range(len(ids))):
                    cache.batch_select_indices(torch.tensor(keep, device=device))
                    ids, mask = ids[keep], mask[keep]
                remaining = width + max(row.max_tokens for row in rows) - ids.shape[1]
                output = self._generate(
                    ids,
                    mask,
                    min(_CHUNK_TOKENS, remaining),
                    closing,
                    past_key_values=cache,
                    sampler=sampler,
                    **penalties,
                )
                ids, cache = output.sequences, output.past_key_values
                mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)
                keep = self._settle_finished(rows, ids[:, width:].tolist(), started)
                rows = [rows[index] for index in keep]
                sampler.select(keep)

    def _generate(
        self,
        ids: "torch.Tensor",
        mask: "torch.Tensor",
        tokens: int,
        closing: Callable[[], bool],
        sampler: "_Sampler | None" = None,
        **options: Any,
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
            **options,
        )

    def _settle_finished(
        self, rows: list[Row], sampled: list[list[int]], started: float
    ) -> list[int]:
        """Settle the rows that have finished; return the indices of the others."""
        running = []
        for index, (row, tokens) in enumerate(zip(rows, sampled, strict=True)):
            tokens, finished = self._truncate(tokens[: row.max_tokens], row.stop)
            if finished or len(tokens) == row.max_tokens:
                reason = "stop" if finished else "length"
                settle(row, Sampled(tokens, reason, time.monotonic() - started, row.cached))
            elif not row.future.cancelled():
                running.append(index)
        return running

    def _truncate(self, tokens: list[int], stop: tuple[str, ...]) -> tuple[list[int], bool]:
        """Cut off what follows the first EOS token or stop string; return whether there was one.

        Only the tokens of the last chunk are new. A stop string that ends in them begins at most
        its length in bytes before them, as a token has at least one. So only these are decoded,
        however long the text is.
        """
        finished = next((i for i, token in enumerate(tokens) if token in self.eos_tokens), None)
        if finished is not None:
            tokens = tokens[: finished + 1]
        if stop:
            new = max(0, len(tokens) - _CHUNK_TOKENS)
            # One more: some tokenizers drop a space in front of the first token.
            start = max(0, new - 1 - max(len(each.encode()) for each in stop))
            if any(each in self.decode(tokens[start:]) for each in stop):
                for end in range(new + 1, len(tokens) + 1):
                    if any(each in self.decode(tokens[start:end]) for each in stop):
                        return tokens[:end], True
        return tokens, finished is not None


def _share_prompts(rows: list[Row]) -> None:
    """Set `cached` of each row: its whole prompt if a row before it has the same one."""
    seen = set()
    for row in rows:
        prompt = tuple(row.prompt)
        row.cached = len(prompt) if prompt in seen else 0
        seen.add(prompt)


_WARPERS = {
    "top_k": "TopKLogitsWarper",
    "top_p": "TopPLogitsWarper",
    "min_p": "MinPLogitsWarper",
    "typical_p": "TypicalLogitsWarper",
    "epsilon_cutoff": "EpsilonLogitsWarper",
    "eta_cutoff": "EtaLogitsWarper",
}
"""Parameters that restrict what is sampled from, after the temperature."""
_PENALTIES = (
    *("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens"),
    "sequence_bias",
)
"""Parameters that change the logits, which `generate` applies before the temperature."""


def _processors(sampling: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Return the arguments of `generate` and the logits warpers for sampling parameters.

    Raises EngineDown for an unknown or invalid one.
    """
    import transformers

    penalties: dict[str, Any] = {}
    warpers: list[Any] = []
    for name, value in sampling.items():
        if name not in (*_WARPERS, *_PENALTIES):
            raise EngineDown(
                f"The transformers engine has no sampling parameter {name!r}. It takes "
                f"{', '.join([*_WARPERS, *_PENALTIES])}, and stop."
            )
        try:
            if name in _PENALTIES:
                configured: Any = transformers.GenerationConfig
                configured(**{name: value}).validate(strict=True)
                penalties[name] = value
            else:
                warpers.append(getattr(transformers, _WARPERS[name])(value))
        except (ValueError, TypeError) as error:
            raise EngineDown(f"transformers rejects {name} = {value!r}: {error}") from error
    return penalties, warpers


class _Sampler:
    """A logits processor that turns `generate`'s argmax into sampling from softmax(logits / T).

    Each row has one uniform number per token, drawn in advance from its own seed, and takes the
    first token at which the cumulative probability exceeds it (inverse transform sampling). The sum
    is in float64, to keep rare tokens accurate. torch.multinomial and the Gumbel trick draw a
    number per vocabulary entry instead, which triples the time per step on a CPU.
    """

    def __init__(
        self, rows: list[Row], width: int, device: "torch.device", warpers: list[Any]
    ) -> None:
        """warpers: applied to the logits after the temperature."""
        import torch

        self._warpers = warpers
        self._width = width  # of the padded prompts
        self._float_type = (
            torch.float32 if device.type == "mps" else torch.float64
        )  # MPS has no float64
        uniforms = torch.zeros(len(rows), max(row.max_tokens for row in rows), dtype=torch.float64)
        for row_uniforms, row in zip(uniforms, rows, strict=True):
            row_uniforms[: row.max_tokens].uniform_(
                generator=torch.Generator().manual_seed(row.seed)
            )
        self._uniforms = uniforms.to(device, self._float_type)
        self._temperatures = torch.tensor([[row.temperature] for row in rows], device=device)

    def __call__(self, ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        import torch

        step = ids.shape[1] - self._width
        greedy = self._temperatures == 0
        scaled = scores / self._temperatures.masked_fill(greedy, 1)
        for warper in self._warpers:
            scaled = warper(ids, scaled)
        cumulative = scaled.softmax(-1).cumsum(-1, dtype=self._float_type)
        target = self._uniforms[:, step : step + 1] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, target, right=True).clamp_(max=scores.shape[1] - 1)
        token = torch.where(greedy, scores.argmax(-1, keepdim=True), token)
        return scores.scatter_(1, token, torch.inf)

    def select(self, keep: list[int]) -> None:
        self._uniforms, self._temperatures = self._uniforms[keep], self._temperatures[keep]


def load_errors() -> tuple[type[Exception], ...]:
    """Return what loading a model or an adapter may raise."""
    from safetensors import SafetensorError

    known = (AttributeError, ImportError, OSError, RuntimeError, TypeError, ValueError)
    return (*known, SafetensorError)


def load(
    name: str, note: Callable[[str], None], device: str | None = None, **options: Any
) -> Loaded:
    """Load a model on a device (None: the best available); raise EngineDown if that fails.

    options: of transformers' `from_pretrained`. `dtype` is float32 on the CPU by default, where it
    is faster, and bfloat16 elsewhere.
    """
    # Idle OpenMP threads spin by default, which starves other processes on the same cores (graders,
    # a second shard) and slows down every layer: measured as 3 to 5 times slower on 2 cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import torch
        import transformers
    except ImportError as error:
        raise EngineDown(
            f"The transformers engine needs torch and transformers ({error}). Run: "
            "pip install 'malt-data[local]'"
        ) from error
    try:
        torch_device = torch.device(device or _best_device())
    except RuntimeError as error:
        raise EngineDown(f"There is no device {device!r}: {one_line(error)}.") from error
    options = {"dtype": "float32" if torch_device.type == "cpu" else "bfloat16", **options}
    source = resolve(name, note)
    try:
        with quiet_libraries():
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(source, **options)
            if "device_map" not in options:
                model = model.to(torch_device)
            model = model.eval()
    except load_errors() as error:
        raise EngineDown(
            f"The model {name} could not be loaded: {one_line(error)}. "
            "Check its name, the network and the memory of the device."
        ) from error
    eos_tokens = _eos_tokens(model, tokenizer)
    generation_config: Any = transformers.GenerationConfig
    model.generation_config = generation_config(
        eos_token_id=list(eos_tokens), pad_token_id=eos_tokens[0]
    )
    config = model.config.get_text_config()
    context_length = getattr(config, "max_position_embeddings", 1 << 30)
    return Loaded(name, model, tokenizer, eos_tokens, context_length)


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _eos_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return the EOS tokens of the model (one or several) and of the tokenizer."""
    eos = model.generation_config.eos_token_id
    tokens = [tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])]
    return tuple(dict.fromkeys(token for token in tokens if token is not None))
