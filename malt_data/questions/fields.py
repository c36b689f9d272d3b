r"""Read the fields of a row: the question, its choices, the gold answer.

    >>> read_gold({"answer": "72 / 2 = 36 clips, 72 + 36 … #### 1,234"}["answer"])
    '1,234'
    >>> choice_letter("2", Choices(("pond", "sea"), labels=("1", "2")))
    'B'

Nothing is guessed: a gold that matches two choices, or a solution without a final answer, is
refused with a reason.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

from malt_data.graders.choice import MAX_CHOICES

FIELDS: Mapping[str, tuple[str, ...]] = {
    "question": ("question", "problem", "query", "prompt"),
    "answer": ("answer", "gold", "target", "answerKey", "solution"),
    "choices": ("choices", "options"),
}
"""Recognised field names, case-insensitive; the first with content is used."""

_BARE_SOLUTION = 100  # characters; a longer solution must mark its answer


class Refused(Exception):
    """A row that cannot become a question; the message is a fixed reason, so it can be counted."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The texts of A, B, …, and the row's own labels if it has any."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None = None


def filled_fields(row: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    """Yield the fields of `row` that match `names` and are not empty, in the order of `names`."""
    by_lowercase = {str(key).lower(): key for key in reversed(list(row))}
    for name in names:
        key = name if name in row else by_lowercase.get(name.lower())
        if key is not None and _has_content(row[key]):
            yield key


def _has_content(value: object) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and value != [] and value != {}


# --- choices -----------------------------------------------------------------------------------


def read_choices(value: Any) -> Choices:
    """Read a list of texts, {"label": […], "text": […]}, letter → text, or JSON of one of these."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Refused("choices are not a list (nor JSON of one)") from None
    labels: object = None
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        labels = [entry.get("label") for entry in value]
        value = [entry.get("text") for entry in value]
    if isinstance(value, dict):
        if isinstance(value.get("text"), list):
            value, labels = value["text"], value.get("label")
        else:
            pairs = [(key, text) for key, text in value.items() if text is not None]
            value, labels = [text for _, text in pairs], [key for key, _ in pairs]
    if not isinstance(value, list):
        raise Refused("choices are not a list (nor JSON of one)")
    return _validated(value, labels)


def _validated(texts: list[object], labels: object) -> Choices:
    if len(texts) < 2:
        raise Refused("fewer than two choices")
    if len(texts) > MAX_CHOICES:
        raise Refused(f"more than {MAX_CHOICES} choices")
    stripped = tuple(_plain_text(text) for text in texts)
    if not all(stripped):
        raise Refused("a choice is empty or no text")
    if not isinstance(labels, list) or None in labels:
        return Choices(stripped)
    names = tuple(_plain_text(label) for label in labels)
    if len(names) != len(stripped) or len(set(names)) != len(names):
        raise Refused("choices and their labels do not match")
    return Choices(stripped, names)


def _plain_text(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def choice_letter(gold: str, choices: Choices) -> str:
    """Return the letter of the choice that `gold` identifies by label, letter or exact text."""
    index = _index_by_label(gold, choices)
    if index is None:
        matches = {i for i, text in enumerate(choices.texts) if text == gold}
        if letter := re.fullmatch(r"\(?([A-Za-z])[).:]?", gold):
            matches |= {ord(letter[1].upper()) - ord("A")} & set(range(len(choices.texts)))
        if not matches:
            raise Refused("gold is not one of the choices")
        if len(matches) > 1:
            raise Refused("gold names two choices")
        index = matches.pop()
    if choices.texts.count(choices.texts[index]) > 1:
        raise Refused("another choice has the gold's text")
    return chr(ord("A") + index)


def _index_by_label(gold: str, choices: Choices) -> int | None:
    labels = [label.casefold() for label in choices.labels or ()]
    return labels.index(gold.casefold()) if labels.count(gold.casefold()) == 1 else None


# --- golds -------------------------------------------------------------------------------------


def read_gold(value: object, *, solution: bool = False) -> str:
    r"""Return the gold answer in a field: the text after `####`, the last `\boxed`, or all of it.

    solution: the field is a worked solution, so a long text without a marker has no answer.
    """
    text = gold_text(value)
    _, hashes, after = text.rpartition("####")
    if hashes and "\n" not in after.strip():
        gold = after.strip()
    elif (box := last_box(text)) is not None:
        gold = box.strip()
    elif solution and (len(text) > _BARE_SOLUTION or "\n" in text):
        gold = ""
    else:
        gold = text
    if not gold:
        raise Refused("no gold answer")
    return gold


def gold_text(value: object) -> str:
    """Return a gold answer as it is; raise Refused if it is neither text nor a number."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, list | tuple):
        raise Refused("several gold answers")
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
        if not math.isfinite(number):
            raise Refused("no gold answer")
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
    if isinstance(value, str | bool):
        return str(value).strip()
    raise Refused("gold is neither text nor a number")


_BRACES = re.compile(r"\\(?:boxed|fbox)[ \t]*(?:(\{)|([\w.+-]+))|\\.|[{}]", re.DOTALL)


def last_box(text: str) -> str | None:
    r"""Return the content of the last balanced `\boxed{…}`, in one pass over the text."""
    open_braces: list[int | None] = []  # where the content starts if the brace opens a box
    start, content = -1, None
    for match in _BRACES.finditer(text):
        if match[2] is not None and match.start() > start:
            start, content = match.start(2), match[2]
        elif match[1] or match[0] == "{":
            open_braces.append(match.end() if match[1] else None)
        elif match[0] == "}" and open_braces:
            box_start = open_braces.pop()
            if box_start is not None and box_start > start:
                start, content = box_start, text[box_start : match.start()]
    return content


# --- storage -----------------------------------------------------------------------------------


def as_json(value: Mapping[str, Any]) -> str:
    """Return `value` as strict JSON that Parquet can store, whatever types the source used."""
    try:
        plain = _plain(value)
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False)
        return text if storable(text) else json.dumps(plain, allow_nan=False)
    except RecursionError:
        raise Refused("fields nested too deeply") from None


def storable(text: str) -> bool:
    """Return whether `text` is valid Unicode, i.e. has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(value: object) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(float(value)) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)
