"""Decide whether a model can train on a row; shared by `export`, `export --check` and `train`.

TRL renders prompt and prompt + completion with the chat template and computes the loss on the
additional tokens. So the first must be a prefix of the second, token for token, and the second must
fit the model. For a pair this must hold for both texts. A row's `chat_template_kwargs` are
variables of the template. Plain text is tokenized as it is, with the EOS token at its end.

    fit = load_fit("Qwen/Qwen3-0.6B", max_length=1024)
    [row.reason for row in fit.measure(rows)]    # [None, "too_long", …]
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import Any

import jinja2

from malt_data.engines.prompts import PLAIN_TEXT
from malt_data.engines.thinking import opened_by
from malt_data.errors import ExportError
from malt_data.schemas.exports import VARIABLES

SIDES = ("completion", "chosen", "rejected")
_UNBOUNDED = 10**9
"""Tokenizers without a limit report some huge number."""
_TEMPLATE_ERRORS = (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError)
"""A template is a program: it may raise deliberately or fail in any operation."""


@dataclass(frozen=True)
class Measured:
    """Token counts of a row. texts: side → tokens after the prompt; reason: see `selection.UNFIT`.

    opens_thought: whether a prompt that is not a prefix ends within a thought.
    """

    prompt: int = 0
    texts: Mapping[str, int] = field(default_factory=dict)
    reason: str | None = "refused_by_template"
    opens_thought: bool = False

    @property
    def longest(self) -> int:
        """Tokens of the prompt and its longest text."""
        return self.prompt + max(self.texts.values(), default=0)


@dataclass(frozen=True)
class Fit:
    """What fits a model: its tokenizer, with the chat template if any, and the limit of tokens."""

    tokenizer: Any
    limit: int | None = None

    def measure(self, rows: Sequence[Mapping[str, Any]]) -> list[Measured]:
        """Return the token counts of rows in the format of an export or of TRL's trainers.

        rows: `prompt` with `completion`, or with `chosen` and `rejected`, as messages or as plain
        text, and optionally `chat_template_kwargs`; fastest with a few hundred at once. Raises
        ExportError for messages if the model has no chat template.
        """
        return [
            measured
            for variables, alike in groupby(rows, key=_variables_of)
            for measured in self._measure([*alike], variables)
        ]

    def _measure(
        self, rows: list[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> Iterator[Measured]:
        sides = [side for side in SIDES if side in rows[0]]
        opened = {**variables, "add_generation_prompt": True}
        prompts = self._encode([row["prompt"] for row in rows], **opened)
        wholes = {
            side: self._encode(
                [self._joined(row["prompt"], row[side]) for row in rows], **variables
            )
            for side in sides
        }
        for i, prompt in enumerate(prompts):
            yield self._measured(prompt, {side: wholes[side][i] for side in sides})

    def render(self, row: Mapping[str, Any], side: str) -> tuple[str, str] | None:
        """Return a row's prompt, and its prompt with a text, as the model would read them.

        None if the chat template rejects them.
        """
        prompt, whole = row["prompt"], self._joined(row["prompt"], row[side])
        if isinstance(prompt, str):
            return prompt, whole
        variables: dict[str, Any] = {**_variables_of(row), "tokenize": False}
        template = self.tokenizer.apply_chat_template
        try:
            opened = template(prompt, **variables | {"add_generation_prompt": True})
            return opened, template(whole, **variables)
        except _TEMPLATE_ERRORS:
            return None

    def _measured(self, prompt: list[int] | None, wholes: dict[str, list[int] | None]) -> Measured:
        encoded = {side: whole for side, whole in wholes.items() if whole is not None}
        if prompt is None or len(encoded) < len(wholes):
            return Measured()
        start = len(prompt)
        reason = None
        opens_thought = False
        if any(whole[:start] != prompt for whole in encoded.values()):
            reason = "not_a_prefix"
            opens_thought = opened_by(self.tokenizer, prompt)
        elif self.limit is not None and max(map(len, encoded.values())) > self.limit:
            reason = "too_long"
        texts = {side: len(whole) - start for side, whole in encoded.items()}
        return Measured(start, texts, reason, opens_thought)

    def _joined(self, prompt: Any, text: Any) -> Any:
        """Return prompt and text joined as TRL does, which appends the EOS token to plain text."""
        if isinstance(text, str) and not text.endswith(self.tokenizer.eos_token):
            text += self.tokenizer.eos_token
        return prompt + text

    def _encode(self, inputs: Sequence[Any], **options: Any) -> list[list[int] | None]:
        """Return the tokens of each input; encode duplicates (shared prompts and texts) once."""
        keys = [json.dumps(item) for item in inputs]
        distinct = dict(zip(keys, inputs, strict=True))
        encoded = self._tokens(list(distinct.values()), options)
        tokens = dict(zip(distinct, encoded, strict=True))
        return [tokens[key] for key in keys]

    def _tokens(self, inputs: list[Any], options: dict[str, Any]) -> list[list[int] | None]:
        if not inputs:
            return []
        encoded: list[list[int] | None]
        if isinstance(inputs[0], str):
            encoded = self.tokenizer(inputs, verbose=False)["input_ids"]
            return encoded
        if not self.tokenizer.chat_template:
            raise ExportError(
                f"The rows are chats, but {self.tokenizer.name_or_path} has no chat template. Grow "
                f"the forest with plain text: {PLAIN_TEXT}; or use an instruction-tuned model."
            )
        try:
            encoded = self.tokenizer.apply_chat_template(
                inputs, return_dict=False, tokenizer_kwargs={"verbose": False}, **options
            )
        except _TEMPLATE_ERRORS:  # retry one by one to find the inputs that fail
            if len(inputs) == 1:
                return [None]
            return [tokens for item in inputs for tokens in self._tokens([item], options)]
        return encoded


def _variables_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return row.get(VARIABLES) or {}


def load_fit(name: str, max_length: int | None = None) -> Fit:
    """Return the fit of the model or tokenizer `name`, limited to `max_length` tokens.

    Raises ExportError if it cannot be loaded.
    """
    tokenizer, context = _load(name)
    return Fit(tokenizer, least(max_length, context))


def least(*limits: int | None) -> int | None:
    """Return the smallest limit that is not None; None if all are."""
    return min((limit for limit in limits if limit is not None), default=None)


def context_of(tokenizer: Any, config: Any = None) -> int | None:
    """Return the context length of a model, from its config if possible, else its tokenizer."""
    text = config.get_text_config() if config is not None else None
    length = getattr(text, "max_position_embeddings", None) or tokenizer.model_max_length
    return int(length) if 0 < length < _UNBOUNDED else None


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
            f"The tokenizer {name} could not be loaded ({reason}). Pass a folder with a tokenizer "
            "or a model on the Hub: --tokenizer NAME"
        ) from None
    try:
        config = transformers.AutoConfig.from_pretrained(source)
    except (OSError, ValueError):  # a folder with only a tokenizer
        config = None
    return tokenizer, context_of(tokenizer, config)
