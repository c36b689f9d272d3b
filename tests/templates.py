"""Small chat templates that treat thoughts as those of reasoning models do, and a tokenizer."""

import copy
from typing import Any

_TURN = "{{ '<|im_start|>' + m.role + '\n' }}"
_THOUGHT = "{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}"
_NONE = "{{ '<think>\n\n</think>\n\n' }}"
_OFF = "enable_thinking is defined and not enable_thinking"
_SAID = "{{ m.content + '<|im_end|>\n' }}"
_ANSWER = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"

SWITCH = (
    f"{{% for m in messages %}}{_TURN}{{% if m.role == 'assistant' and m.reasoning_content %}}"
    f"{_THOUGHT}{{% elif m.role == 'assistant' and {_OFF} %}}{_NONE}{{% endif %}}{_SAID}"
    f"{{% endfor %}}{_ANSWER}{{% if {_OFF} %}}{_NONE}{{% endif %}}{{% endif %}}"
)
"""Writes thoughts; with enable_thinking = false, an empty one where there is none (Qwen3)."""
DROPS = f"{{% for m in messages %}}{_TURN}{_SAID}{{% endfor %}}{_ANSWER}{{% endif %}}"
"""Writes no thoughts."""
OPENS = (
    f"{{% for m in messages %}}{_TURN}{{% if m.reasoning_content %}}{_THOUGHT}{{% endif %}}{_SAID}"
    f"{{% endfor %}}{_ANSWER}{{{{ '<think>\n' }}}}{{% endif %}}"
)
"""Writes thoughts, and opens one at the end of every prompt (the distillates of DeepSeek-R1)."""

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen splits text before merging: line breaks stay together, whatever follows."""


def reasoning(tokenizer: Any, template: str = SWITCH) -> Any:
    """Return the tokenizer with one of these templates and Qwen's way to split text.

    SmolLM2's own way, GPT-2's, splits the two line breaks behind `</think>` if a text follows but
    not at the end of a prompt. With it, no prompt that ends in an empty thought is a prefix.
    """
    from tokenizers import Regex, pre_tokenizers

    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return other
