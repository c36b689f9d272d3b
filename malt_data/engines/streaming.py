"""Read a streamed response: which choices have ended, and the reply that the chunks add up to.

    stream = Stream(count=3)
    async for sample in ends(response, stream):
        ...                              # stream.reply([sample]) is complete
    counted(stream, stream.ended, read)  # all of them, with the token counts of the last chunk

The reply has the shape of one that was not streamed, so that everything after this is the same code
for both. The client's own streams are not used: they build a validated object a chunk, which takes
longer than everything else together.

A chunk that cannot be read raises ValueError, LookupError, TypeError or AttributeError.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from malt_data.engines import Completion
from malt_data.engines.refusals import READ_ERRORS
from malt_data.engines.replies import MALFORMED
from malt_data.storage.documents import parse_json

DRAIN_S = 1.0
"""How long to wait for the end of a response after the last event of its stream."""
_TEXTS = ("content", "reasoning_content", "reasoning")


@dataclass(slots=True)
class _Choice:
    """What has arrived of a choice; `pieces` of each of `_TEXTS`."""

    pieces: dict[str, list[str]] = field(default_factory=dict)
    finish_reason: Any = None

    def add(self, chunk: Any) -> None:
        # /completions has the text where /chat/completions has a `delta`
        said = {"content": chunk["text"]} if "text" in chunk else chunk.get("delta") or {}
        for name in _TEXTS:
            piece = said.get(name)
            if piece:
                if not isinstance(piece, str):
                    raise TypeError(f"{name} is not a string")
                self.pieces.setdefault(name, []).append(piece)
        reason = chunk.get("finish_reason") or None
        if reason == "abort" or not isinstance(reason, str | None):  # as in replies.py
            raise ValueError(f"ended by {reason!r}")
        self.finish_reason = reason


class Stream:
    """The first `count` choices of a response in server-sent events."""

    def __init__(self, count: int) -> None:
        self.done = False
        """Whether the server said that this was all."""
        self.broken = False
        """Whether it broke off or could not be read; set by the reader."""
        self.usage: Any = None
        self._choices = [_Choice() for _ in range(count)]
        self._begun: set[int] = set()
        self._rest = b""

    @property
    def ended(self) -> list[int]:
        """The samples that are complete; once the stream is done, those without a reason too."""
        return [
            index
            for index, choice in enumerate(self._choices)
            if choice.finish_reason or (self.done and index in self._begun)
        ]

    def feed(self, data: bytes) -> list[int]:
        """Read the next bytes, cut anywhere; return the samples that they end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        ended: list[int] = []
        for line in lines:
            if not line.startswith(b"data:"):
                continue  # a comment, which keeps the connection alive, or an empty line
            content = line[5:].strip()
            if content == b"[DONE]":
                self.done = True
            elif content:
                ended += self._add(parse_json(content.decode()))
        return ended

    def reply(self, samples: Iterable[int]) -> dict[str, Any]:
        """Return these samples as a reply that was not streamed."""
        choices = [
            {
                "message": {name: "".join(pieces) for name, pieces in choice.pieces.items()},
                "finish_reason": choice.finish_reason,
            }
            for choice in (self._choices[sample] for sample in samples)
        ]
        return {"choices": choices, "usage": self.usage}

    def _add_usage(self, event: Any) -> None:
        usage = event.get("usage")
        if usage and self.usage and event.get("timings"):  # llama.cpp counts each choice
            total = self.usage["completion_tokens"] + usage["completion_tokens"]
            usage = {**usage, "completion_tokens": total}
        self.usage = usage or self.usage

    def _add(self, event: Any) -> list[int]:
        if event.get("error"):
            raise ValueError(f"the stream contains an error: {event['error']}")
        self._add_usage(event)
        ended = []
        for chunk in event.get("choices") or ():
            index = chunk.get("index", 0)
            if index not in range(len(self._choices)):
                continue  # more than were asked for
            choice = self._choices[index]
            if choice.finish_reason:
                continue  # a text that was handed out does not grow
            self._begun.add(index)
            choice.add(chunk)
            if choice.finish_reason:
                ended.append(index)
        return ended


async def ends(response: Any, stream: Stream) -> AsyncIterator[int]:
    """Read a response into `stream`, and close it; yield the samples that end.

    If it breaks off or cannot be read, that is noted in the stream.
    """
    received = response.aiter_bytes()
    try:
        while not stream.done:
            data = await anext(received, b"")
            for sample in stream.feed(data or b"\n"):
                yield sample
            if not data:
                break
        async with asyncio.timeout(DRAIN_S):  # an unread end would cost the connection
            await anext(received, b"")
    except TimeoutError:
        pass
    except (*READ_ERRORS, *MALFORMED):
        stream.broken = not stream.done
    finally:
        await response.aclose()


def counted(
    stream: Stream, ended: Sequence[int], read: Callable[[Any], list[Completion]]
) -> list[Completion]:
    """Return the samples that ended, with token counts if the stream has valid ones."""
    if not ended:
        return []
    try:
        return read(stream.reply(ended))
    except MALFORMED:
        stream.usage = None
        return read(stream.reply(ended))
