"""Split what a reasoning model thought from what it said.

The next role, the grader and a training row get what was said; the thought is stored beside it
(contract: `nodes.thinking`). Models mark their thoughts with one of the pairs in `TAGS`. Some chat
templates open the thought at the end of the prompt, so that a completion only closes it; one that
was cut off at the token limit may not even do that.

    >>> split("<think>\\n3 + 4 is 7.\\n</think>\\n\\nFinal Answer: 7")
    ('3 + 4 is 7.', 'Final Answer: 7')
    >>> split("3 + 4 is 7.</think>Final Answer: 7")
    ('3 + 4 is 7.', 'Final Answer: 7')
    >>> split("<think>3 + 4 is", opened=False), split("3 + 4 is", opened=True)
    (('3 + 4 is', ''), ('3 + 4 is', ''))
    >>> split("Final Answer: 7\\n")
    (None, 'Final Answer: 7\\n')

Linear in the text, as anything may come from a server.
"""

import re
from typing import Any

TAGS = {
    "<think>": "</think>",  # Qwen3, DeepSeek-R1 and most others
    "[THINK]": "[/THINK]",  # Magistral
    "<seed:think>": "</seed:think>",  # Seed-OSS
}
_CLOSING = {*TAGS.values()}
_TAG = re.compile("(" + "|".join(map(re.escape, [*TAGS, *TAGS.values()])) + ")")
_TAIL_TOKENS = 16
"""Enough for an opening tag and the white space after it."""


def split(text: str, *, opened: bool = False) -> tuple[str | None, str]:
    """Return (thinking, text without it); thinking is None if the model marked none.

    opened: whether the prompt ended within a thought. A text without thoughts is returned as it is;
    else the line breaks around both parts are dropped. What precedes a closing tag without an
    opening one was thought, and so is everything after an opening tag that is not closed.
    """
    thought: list[str] = []
    said: list[str] = []
    inside = opened
    for piece in _TAG.split(text):
        if piece in TAGS:
            inside = True
        elif piece in _CLOSING:
            if not inside:
                thought += said
                said = []
            inside = False
        else:
            (thought if inside else said).append(piece)
    if not (opened or len(text) > sum(map(len, said))):
        return None, text
    thinking = "\n\n".join(piece.strip("\n") for piece in thought if piece.strip())
    return thinking or None, "".join(said).lstrip("\n")


def closes_only(text: str) -> bool:
    """Return whether a completion closes a thought that its prompt must have opened."""
    first = _TAG.search(text)
    return first is not None and first[0] in _CLOSING


def opens(prompt: str) -> bool:
    """Return whether a prompt, or the end of one, leaves a thought open."""
    return prompt.rstrip().endswith(tuple(TAGS))


def opened_by(tokenizer: Any, prompt: list[int]) -> bool:
    """Return the same of a prompt in tokens."""
    return opens(tokenizer.decode(prompt[-_TAIL_TOKENS:]))
