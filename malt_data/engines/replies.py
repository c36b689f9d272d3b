"""Parse and validate server responses, so that everything they contain can be stored and printed.

A malformed reply raises ValueError, LookupError, TypeError or AttributeError, and the request is
then retried.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from malt_data.display import printable
from malt_data.engines import Completion
from malt_data.engines.prompts import cut
from malt_data.engines.thinking import closes_only, split
from malt_data.errors import EngineDown

MALFORMED: tuple[type[Exception], ...] = (ValueError, LookupError, TypeError, AttributeError)
"""What a malformed reply raises."""
_MAX_FINISH_REASON = 64
"""Characters kept of a finish_reason; the longest known has 14."""
_ANSWERS_ANY_NAME = {"llamacpp", "sglang"}
"""Servers, by the owner of their models, that do not check the name of a requested model."""


def base_models(reply: Any) -> list[str]:
    """Return the model names in a reply to /models, without adapters."""
    # vLLM and SGLang list adapters as well, with the base model as their parent. An Ollama without
    # models says null.
    names = [str(model["id"]) for model in reply["data"] or [] if not model.get("parent")]
    for name in names:
        if printable(name) != name:  # stored with every node
            raise EngineDown(
                f"The server lists a model named {printable(name)!r}, which is not "
                "printable. Select a model with --model."
            )
    return names


@dataclass(slots=True)
class Habits:
    """What is known of a server's texts; learnt from its replies.

    opens_thoughts: its prompts open a thought, so a text that was cut off may be all thought. Seen
    from a text that closes one.
    """

    opens_thoughts: bool = False


def model_for(reply: Any, adapter: str) -> str | None:
    """Return the model to request for an adapter, given a reply to /models.

    None: the server would answer any unknown name with its base model, and does not list this one.
    Other servers reject it, and the name is returned as it is.

    >>> listed = [{"id": "Qwen", "owned_by": "sglang"}, {"id": "lora", "parent": "Qwen"}]
    >>> model_for({"data": listed}, "lora"), model_for({"data": listed}, "typo")
    ('Qwen:lora', None)
    """
    models = reply["data"] or []
    owners = {model.get("owned_by") for model in models}
    if not owners & _ANSWERS_ANY_NAME:
        return adapter
    for model in models:
        if adapter in (model["id"], *(model.get("aliases") or [])):
            parent = model.get("parent")
            return f"{parent}:{adapter}" if "sglang" in owners and parent else adapter
    return None


def completions(
    reply: Any, seeds: Sequence[int], stop: Sequence[str] = (), habits: Habits | None = None
) -> list[Completion]:
    """Return the completions of one response, at most as many as there are seeds.

    Servers report completion tokens per response, not per choice; `_share` splits them. llama.cpp
    reports those of the first choice only; the others have no count. A server's
    reasoning parser puts the thinking into a field of its own; else it is in the text. Some leave
    the stop string at the end of the text (text-generation-inference): it is cut off.
    """
    choices = reply["choices"]
    habits = habits or Habits()
    said = [_said(choice, stop, habits) for choice in choices]
    if not said:
        raise ValueError("no choices")
    if any(choice.get("finish_reason") == "abort" for choice in choices):
        raise ValueError("aborted by the server")  # by SGLang's and vLLM's administrators
    usage = reply.get("usage") or {}
    total = _count(usage, "completion_tokens")
    written = [(thinking or "") + text for thinking, text in said]
    shares: list[int | None] = [None] * len(said)
    if total is not None and _counts_first_only(reply, total):
        shares[0] = total
    elif total is not None:
        shares = [*_share(total, written)]
    cached = _count(usage.get("prompt_tokens_details") or {}, "cached_tokens")
    prompt = _count(usage, "prompt_tokens")
    return [
        Completion(
            text=text,
            finish_reason=_text(choice.get("finish_reason") or "unknown")[:_MAX_FINISH_REASON],
            prompt_tokens=prompt,
            completion_tokens=tokens,
            seed=seeds[0],
            thinking=thinking,
            cached_tokens=prompt if index and cached is not None else cached,  # computed once
        )
        for index, (choice, (thinking, text), tokens, _) in enumerate(
            zip(choices, said, shares, seeds, strict=False)
        )
    ]


def _counts_first_only(reply: Any, total: int) -> bool:
    timings = reply.get("timings")  # of the first choice, by llama.cpp only
    return isinstance(timings, dict) and timings.get("predicted_n") == total


def _said(choice: Any, stop: Sequence[str], habits: Habits) -> tuple[str | None, str]:
    """Return thinking and text of a choice of /chat/completions or of /completions."""
    message = choice["message"] if "message" in choice else {"content": choice["text"]}
    content = _text(message.get("content"))
    named = _text(message.get("reasoning_content") or message.get("reasoning"))
    habits.opens_thoughts |= closes_only(content)
    cut_off = choice.get("finish_reason") == "length" and not named
    inline, text = split(content, opened=habits.opens_thoughts and cut_off)
    thinking = "\n\n".join(each for each in (named.strip("\n"), inline) if each)
    return thinking or None, cut(text, stop)


def _text(content: Any) -> str:
    if content is None:
        return ""  # an empty completion is valid
    if not isinstance(content, str):
        raise TypeError("content is not a string")
    # Servers that count in UTF-16 split emoji into lone surrogates, which UTF-8 cannot encode.
    return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(usage: Any, name: str) -> int | None:
    count = usage.get(name)
    if not isinstance(count, int) or isinstance(count, bool):
        return None
    if not 0 <= count < 2**31:  # the column is an int32
        raise ValueError(f"{name} out of range: {count}")
    return count


def _share(total: int, texts: Sequence[str]) -> list[int]:
    """Split `total` tokens in proportion to the lengths of `texts`; the sum is exactly `total`.

    Rounds down, then gives the rest to the largest remainders. Empty texts get equal shares.

    >>> _share(10, ["a", "a", "a"]), _share(7, ["aaaa", ""])
    ([4, 3, 3], [7, 0])
    """
    lengths = [len(text) for text in texts]
    if not any(lengths):
        lengths = [1] * len(texts)
    total_length = sum(lengths)
    shares = [total * length // total_length for length in lengths]
    remainders = sorted(range(len(texts)), key=lambda i: -(total * lengths[i] % total_length))
    for index in remainders[: total - sum(shares)]:
        shares[index] += 1
    return shares
