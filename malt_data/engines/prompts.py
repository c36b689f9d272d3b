"""From a prompt to tokens, and from tokens to a text that ends at its stop strings.

Shared by the engines that run the model in this process. A chat goes through the model's chat
template. Plain text is tokenized as it is, with the tokenizer's default special tokens, as TRL and
vLLM's /v1/completions do: so the tokens are the same in build, training and evaluation.

    >>> cut(" 7\\nQuestion: next", ("\\n",))
    ' 7'
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.meta

from malt_data.engines import Prompt
from malt_data.errors import EngineDown

PLAIN_TEXT = "[chat_template] plain = true, in --config or the pipeline file"
"""How a user asks for prompts in plain text; for messages."""


def encode(
    tokenizer: Any, prompt: Prompt, model: str, variables: Mapping[str, Any] | None = None
) -> list[int]:
    """Return the tokens of a prompt.

    variables: of the chat template. Raises EngineDown for a chat if the tokenizer has no chat
    template, or one that does not read a variable.
    """
    ids: list[int]
    if isinstance(prompt, str):
        ids = tokenizer(prompt, verbose=False)["input_ids"]
        return ids
    if not tokenizer.chat_template:
        raise EngineDown(
            f"{model} has no chat template. Prompt it with plain text: {PLAIN_TEXT}; or use its "
            "instruction-tuned variant (…-Instruct, …-it)."
        )
    variables = variables or {}
    require_variables(tokenizer.chat_template, variables, model)
    ids = tokenizer.apply_chat_template(
        list(prompt), add_generation_prompt=True, return_dict=False, **variables
    )
    return ids


def require_variables(template: Any, variables: Mapping[str, Any], model: str) -> None:
    """Raise EngineDown unless a chat template reads all `variables`; it would ignore others."""
    known = _variables(template) if variables and isinstance(template, str) else None
    for name in variables:
        if known is not None and name not in known:
            raise EngineDown(
                f"The chat template of {model} does not read {name!r} of [chat_template]. It reads "
                f"{', '.join(sorted(known))}."
            )


@lru_cache(maxsize=8)
def _variables(template: str) -> frozenset[str] | None:
    """Return the variables that a chat template reads; None if it cannot be parsed here."""
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        parsed = environment.parse(template)
    except jinja2.TemplateSyntaxError:  # with a tag of the library's own
        return None
    return frozenset(jinja2.meta.find_undeclared_variables(parsed))


def cut(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first stop string."""
    return text[: min((text.index(each) for each in stop if each in text), default=len(text))]
