"""One imported completion: what every reader turns its files into, checked field by field.

    reader → Imported(where="runs.jsonl line 7", key="7", parent="3", role="verifier", text=…)

A completion of the first turn carries the row of its question, as question files have them. What a
file does not say (tokens, seed, latency) is None, and stays null in the forest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from malt_data.display import escape
from malt_data.engines.thinking import split
from malt_data.errors import ImportsError
from malt_data.questions.fields import storable

LONGEST_TEXT = 1_000_000
"""In characters."""
UNKNOWN = "unknown"
"""The model and the finish reason where a file names none: columns that are never null."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A completion, where it was found, and its place: under `parent`, the key of another.

    key: its name in `file`, the index of its file. row: the other fields of its row, those of the
    question among them; below the first turn there need be none. sample: its index among its
    siblings, where the file says it.
    """

    where: str
    file: int
    key: str
    parent: str | None
    role: str | None
    row: Mapping[str, Any]
    text: str
    thinking: str | None = None
    finish_reason: str = UNKNOWN
    model: str | None = None
    adapter: str | None = None
    seed: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    latency: float | None = None
    sample: int | None = None
    extra: bool = False


_TEXTS = ("text", "thinking", "finish_reason", "model", "adapter")
_RANGES = {
    "seed": (-(2**63), 2**63),
    "prompt_tokens": (0, 2**31),
    "completion_tokens": (0, 2**31),
    "cached_tokens": (0, 2**31),
    "sample": (0, 2**15),
    "latency": (0, 10**9),
}
DETAILS = (*_TEXTS, *_RANGES, "extra")
"""The fields that say more about a completion than its place."""


def imported(
    where: str,
    details: Mapping[str, Any],
    *,
    file: int,
    key: str,
    parent: str | None = None,
    role: str | None = None,
    row: Mapping[str, Any] | None = None,
    raw: bool = True,
) -> Imported:
    """Return a completion; raise ImportsError, naming `where`, for a value of the wrong type.

    details: values by the names of DETAILS; None counts as not given. raw: thinking that the model
    marked in its text is still to be taken out of it.
    """
    checked = {name: _checked(where, name, details.get(name)) for name in DETAILS}
    if checked["text"] is None:
        raise ImportsError(f"{where} has no text.")
    if raw and checked["thinking"] is None:
        checked["thinking"], checked["text"] = split(checked["text"])
    given = {name: value for name, value in checked.items() if value is not None}
    return Imported(where, file, key, parent, role, row or {}, **given)


def _checked(where: str, name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _TEXTS:
        return plain_text(where, name, value)
    if name == "extra":
        if isinstance(value, bool):
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        low, high = _RANGES[name]
        if low <= value < high and (name == "latency" or value == int(value)):
            return float(value) if name == "latency" else int(value)
    raise ImportsError(f"{where}: {name} cannot be {_short(value)}.")


def plain_text(where: str, name: str, value: object) -> str:
    """Return a value that must be text that can be stored; raise ImportsError if it is not."""
    if not isinstance(value, str):
        raise ImportsError(f"{where}: {name} is not text but {_short(value)}.")
    if len(value) > LONGEST_TEXT:
        raise ImportsError(
            f"{where}: {name} has {len(value)} characters; the longest that can be imported has "
            f"{LONGEST_TEXT}. Shorten it, or leave the row out."
        )
    if "\0" in value or not storable(value):
        what = "a NUL character" if "\0" in value else "half of a surrogate pair"
        raise ImportsError(f"{where}: {name} contains {what}, which cannot be stored. Remove it.")
    return value


def _short(value: object) -> str:
    shown = escape(repr(value)[:200])
    return shown if len(shown) <= 40 else f"{type(value).__name__} {shown[:40]}…"
