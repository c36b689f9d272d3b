"""Can a model learn from this row? One rule for `export`, `export --check` and `train`.

TRL renders prompt and prompt + completion under the chat template and takes the loss on what the
second has more. So the first must be a prefix of the second, token for token, and the second must
fit the model; for a pair both texts must.

    fit = load_fit("Qwen/Qwen3-0.6B", max_length=1024)
    [row.reason for row in fit.measure(rows)]    # [None, "too_long", …]
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jinja2

from malt_data.errors import ExportError

UNFIT = {
    "refused_by_template": "the chat template refuses its messages",
    "not_a_prefix": "its prompt is no prefix of prompt and text in the tokens of the model",
    "too_long": "longer than max_length, or than the model's context",
}
"""What each reason means; the first that holds is a row's reason."""

SIDES = ("completion", "chosen", "rejected")
_UNBOUNDED = 10**9
"""Tokenizers that know no limit say some huge number."""
_REFUSALS = (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError)
"""A template is a program: it may refuse by name or fail at any operation."""


@dataclass(frozen=True)
class Measured:
    """A row in tokens. texts: side → tokens of that text behind the prompt; reason: see UNFIT."""

    prompt: int = 0
    texts: Mapping[str, int] = field(default_factory=dict)
    reason: str | None = "refused_by_template"

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest text."""
        return self.prompt + max(self.texts.values(), default=0)


@dataclass(frozen=True)
class Fit:
    """What one model takes: its tokenizer with the chat template, and its most tokens a row."""

    tokenizer: Any
    limit: int | None = None

    def measure(self, rows: Sequence[Mapping[str, Any]]) -> list[Measured]:
        """Return the rows of an export, or of any data for TRL's trainers, in tokens.

        rows: `prompt` with `completion`, or with `chosen` and `rejected`; a few hundred at once
        are quickest.
        """
        sides = [side for side in SIDES if rows and side in rows[0]]
        prompts = self._encode([row["prompt"] for row in rows], add_generation_prompt=True)
        wholes = {
            side: self._encode([self._joined(row["prompt"], row[side]) for row in rows])
            for side in sides
        }
        return [
            self._measured(prompt, {side: wholes[side][i] for side in sides})
            for i, prompt in enumerate(prompts)
        ]

    def _measured(self, prompt: list[int] | None, wholes: dict[str, list[int] | None]) -> Measured:
        found = {side: whole for side, whole in wholes.items() if whole is not None}
        if prompt is None or len(found) < len(wholes):
            return Measured()
        start = len(prompt)
        reason = None
        if any(whole[:start] != prompt for whole in found.values()):
            reason = "not_a_prefix"
        elif self.limit is not None and max(map(len, found.values())) > self.limit:
            reason = "too_long"
        texts = {side: len(whole) - start for side, whole in found.items()}
        return Measured(start, texts, reason)

    def _joined(self, prompt: Any, text: Any) -> Any:
        """Return prompt and text as TRL joins them; it ends plain text with the end token."""
        if isinstance(text, str) and not text.endswith(self.tokenizer.eos_token):
            text += self.tokenizer.eos_token
        return prompt + text

    def _encode(self, inputs: Sequence[Any], **options: Any) -> list[list[int] | None]:
        """Return the tokens of each; siblings share prompts and pairs share texts: once each."""
        keys = [json.dumps(one) for one in inputs]
        distinct = dict(zip(keys, inputs, strict=True))
        found = self._tokens(list(distinct.values()), options)
        tokens = dict(zip(distinct, found, strict=True))
        return [tokens[key] for key in keys]

    def _tokens(self, inputs: list[Any], options: dict[str, Any]) -> list[list[int] | None]:
        if not inputs:
            return []
        found: list[list[int] | None]
        if isinstance(inputs[0], str):
            found = self.tokenizer(inputs, verbose=False)["input_ids"]
            return found
        try:
            found = self.tokenizer.apply_chat_template(
                inputs, return_dict=False, tokenizer_kwargs={"verbose": False}, **options
            )
        except _REFUSALS:  # by one of them: which?
            if len(inputs) == 1:
                return [None]
            return [tokens for one in inputs for tokens in self._tokens([one], options)]
        return found


def load_fit(name: str, max_length: int | None = None) -> Fit:
    """Return what the model or tokenizer called `name` takes, and no more than `max_length`.

    Raises ExportError where there is no tokenizer or no chat template.
    """
    tokenizer, context = _load(name)
    return Fit(tokenizer, least(max_length, context))


def least(*limits: int | None) -> int | None:
    """Return the smallest of the limits there are; None where there is none."""
    return min((limit for limit in limits if limit is not None), default=None)


def context_of(tokenizer: Any, config: Any = None) -> int | None:
    """Return how many tokens a model takes: its config knows best, then its tokenizer."""
    text = config.get_text_config() if config is not None else None
    found = getattr(text, "max_position_embeddings", None) or tokenizer.model_max_length
    return int(found) if 0 < found < _UNBOUNDED else None


@lru_cache(maxsize=2)
def _load(name: str) -> tuple[Any, int | None]:
    try:
        import transformers

        from malt_data.engines.embedded import resolve
    except ImportError as error:
        raise ExportError(
            f"Counting tokens needs transformers ({error}): pip install 'malt-data[local]'"
        ) from None
    try:
        source = resolve(name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".: ")
        raise ExportError(
            f"The tokenizer {name} could not be loaded ({reason}). Name a folder that holds one, "
            "or a model on the Hub: --tokenizer NAME"
        ) from None
    if not tokenizer.chat_template:
        raise ExportError(f"{name} has no chat template: name an instruction-tuned tokenizer.")
    try:
        config = transformers.AutoConfig.from_pretrained(source)
    except (OSError, ValueError):  # a tokenizer alone
        config = None
    return tokenizer, context_of(tokenizer, config)
