"""How many prompt tokens a tree took, and how many it needs at least.

An engine with a prefix cache computes the question once for all samples of all turns, and a text
once for everything sampled below it. At least, it must compute each distinct prefix of the tree's
prompts once, for each adapter: adapters have caches of their own.

    >>> distinct_tokens([((1, 2, 3), 3), ((1, 2, 4, 5), 4)])
    5
    >>> distinct_tokens([("What is 2 + 3?", 7), ("What is 2 + 3? 5.", 9)])
    9
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from malt_data.engines import Completion, Prompt, Request

Prompted = tuple[tuple[int, ...] | str, int]
"""A prompt, as its tokens or its text, and how many tokens it has."""


def prompt_use(sampled: Iterable[tuple[Request, Completion]]) -> tuple[int, int] | None:
    """Return the prompt tokens of one tree: (computed, least possible).

    None if the engine did not count them. Where it does not give the tokens of its prompts, as a
    server, their texts stand for them and the second is an estimate.
    """
    computed = 0
    by_adapter: dict[str | None, set[Prompted]] = defaultdict(set)
    for request, completion in sampled:
        if completion.prompt_tokens is None or completion.cached_tokens is None:
            return None
        computed += completion.prompt_tokens - completion.cached_tokens
        content = completion.prompt_ids or _text(request.prompt)
        by_adapter[request.adapter].add((content, completion.prompt_tokens))
    return computed, sum(map(distinct_tokens, by_adapter.values()))


def distinct_tokens(prompts: Iterable[Prompted]) -> int:
    """Return the tokens of all distinct prefixes; for texts, in proportion to their characters.

    Sorted prompts share the most with their neighbours, so the rests add up to a prefix tree.
    """
    total = 0.0
    before: tuple[int, ...] | str | None = None
    for content, tokens in sorted(prompts):
        shared = 0 if before is None else _shared(before, content)
        total += tokens * (1 - shared / max(1, len(content)))
        before = content
    return round(total)


def _shared(one: Sequence[object], other: Sequence[object]) -> int:
    """Return the length of the longest common prefix."""
    length = min(len(one), len(other))
    return next((i for i in range(length) if one[i] != other[i]), length)


def _text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "".join(f"{message['role']}\n{message['content']}\n" for message in prompt)
