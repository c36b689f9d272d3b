"""What a server says, checked where it is read: what passes here can be stored and printed.

A reply that is not what the API promises is a ValueError, LookupError, TypeError or
AttributeError, whichever reading it as one gives; the request is then tried again.
"""

from collections.abc import Sequence
from typing import Any

from malt_data.display import printable
from malt_data.engines import Completion
from malt_data.errors import EngineDown

_LONGEST_REASON = 64
"""Characters of a finish_reason; the longest known has 14."""


def base_models(reply: Any) -> list[str]:
    """Return the names under /models that are no adapters."""
    # vLLM lists adapters beside their base model, which it names as their parent
    names = [str(model["id"]) for model in reply["data"] if not model.get("parent")]
    for name in names:
        if printable(name) != name:  # it is stored with every node
            raise EngineDown(
                f"The server calls a model {printable(name)!r}, which is no name that a forest can "
                "hold: name one with --model."
            )
    return names


def completions(reply: Any, seeds: Sequence[int]) -> list[Completion]:
    """Return the completions of one response, at most as many as there are seeds.

    The server counts the completion tokens of a response, not of a choice; `_share` splits them.
    """
    choices = reply["choices"]
    texts = [_text(choice["message"].get("content")) for choice in choices]
    if not texts:
        raise ValueError("no choices")
    usage = reply.get("usage") or {}
    total = _count(usage, "completion_tokens")
    shares = [None] * len(texts) if total is None else _share(total, texts)
    return [
        Completion(
            text=text,
            finish_reason=_text(choice.get("finish_reason") or "unknown")[:_LONGEST_REASON],
            prompt_tokens=_count(usage, "prompt_tokens"),
            completion_tokens=tokens,
            seed=seeds[0],
        )
        for choice, text, tokens, _ in zip(choices, texts, shares, seeds, strict=False)
    ]


def _text(content: Any) -> str:
    if content is None:
        return ""  # an empty completion is an answer
    if not isinstance(content, str):
        raise TypeError("it is no text")
    # Servers that count in UTF-16 cut emoji in half; UTF-8, and so Parquet, cannot hold a half.
    return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(usage: Any, name: str) -> int | None:
    count = usage.get(name)
    if not isinstance(count, int) or isinstance(count, bool):
        return None
    if not 0 <= count < 2**31:  # as a forest stores it
        raise ValueError(f"{name} is {count}")
    return count


def _share(total: int, texts: Sequence[str]) -> list[int]:
    """Split `total` tokens in proportion to the lengths of `texts`; the sum is exactly `total`.

    Whole shares first, the rest to the largest remainders. Texts that are all empty share alike.

    >>> _share(10, ["a", "a", "a"]), _share(7, ["aaaa", ""])
    ([4, 3, 3], [7, 0])
    """
    lengths = [len(text) for text in texts]
    if not any(lengths):
        lengths = [1] * len(texts)
    whole = sum(lengths)
    shares = [total * length // whole for length in lengths]
    remainders = sorted(range(len(texts)), key=lambda i: -(total * lengths[i] % whole))
    for index in remainders[: total - sum(shares)]:
        shares[index] += 1
    return shares
