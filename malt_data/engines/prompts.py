"""From a prompt to tokens, and from tokens to a text that ends at its stop strings.

Shared by the engines that run the model in this process. A chat goes through the model's chat
template. Plain text is tokenized as it is, with the tokenizer's default special tokens, as TRL and
vLLM's /v1/completions do: so the tokens are the same in build, training and evaluation.

    >>> cut(" 7\\nQuestion: next", ("\\n",))
    ' 7'
"""

from collections.abc import Sequence
from typing import Any

from malt_data.engines import Prompt
from malt_data.errors import EngineDown

PLAIN_TEXT = "[chat_template] plain = true, in --config or the pipeline file"
"""How a user asks for prompts in plain text; for messages."""


def encode(tokenizer: Any, prompt: Prompt, model: str) -> list[int]:
    """Return the tokens of a prompt.

    Raises EngineDown for a chat if the tokenizer has no chat template.
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
    ids = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False)
    return ids


def cut(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first stop string."""
    return text[: min((text.index(each) for each in stop if each in text), default=len(text))]
