r"""What the fields of a row say: the question, its choices, the gold answer.

    >>> stated({"answer": "72 / 2 = 36 clips, 72 + 36 … #### 1,234"}["answer"])
    '1,234'
    >>> choice_letter("2", Choices(("pond", "sea"), labels=("1", "2")))
    'B'

Nothing is guessed: a gold that could mean two choices, or a solution that boxes nothing, is
refused with its reason rather than read one way.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

FIELDS: Mapping[str, tuple[str, ...]] = {
    "question": ("question", "problem", "query", "prompt"),
    "answer": ("answer", "gold", "target", "answerKey", "solution"),
    "choices": ("choices", "options"),
}
"""What a row's fields may be called, in any case; the first with content counts."""

MAX_CHOICES = 26
_BARE_SOLUTION = 100  # characters: a longer solution that marks no answer states none


class Refused(Exception):
    """A row that cannot be a question; its text is the reason, the same for all of its sort."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The texts of A, B, …, and the row's own labels where it gives them."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None = None


def with_content(row: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    """Yield the fields of `row` called one of `names` that hold something, in that order."""
    any_case = {str(key).lower(): key for key in reversed(list(row))}
    for name in names:
        key = name if name in row else any_case.get(name.lower())
        if key is not None and _holds(row[key]):
            yield key


def _holds(value: object) -> bool:
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
    return _checked(value, labels)


def _checked(texts: list[object], labels: object) -> Choices:
    if len(texts) < 2:
        raise Refused("fewer than two choices")
    if len(texts) > MAX_CHOICES:
        raise Refused(f"more than {MAX_CHOICES} choices")
    read = tuple(_plain_text(text) for text in texts)
    if not all(read):
        raise Refused("a choice is empty or no text")
    if not isinstance(labels, list) or None in labels:
        return Choices(read)
    names = tuple(_plain_text(label) for label in labels)
    if len(names) != len(read) or len(set(names)) != len(names):
        raise Refused("choices and their labels do not match")
    return Choices(read, names)


def _plain_text(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def choice_letter(gold: str, choices: Choices) -> str:
    """Return the letter of the one choice that `gold` names by its label, letter or exact text."""
    at = _by_label(gold, choices)
    if at is None:
        named = {index for index, text in enumerate(choices.texts) if text == gold}
        if letter := re.fullmatch(r"\(?([A-Za-z])[).:]?", gold):
            index = ord(letter[1].upper()) - ord("A")
            named |= {index} & set(range(len(choices.texts)))
        if not named:
            raise Refused("gold is not one of the choices")
        if len(named) > 1:
            raise Refused("gold names two choices")
        at = named.pop()
    if choices.texts.count(choices.texts[at]) > 1:
        raise Refused("another choice has the gold's text")
    return chr(ord("A") + at)


def _by_label(gold: str, choices: Choices) -> int | None:
    labels = [label.casefold() for label in choices.labels or ()]
    return labels.index(gold.casefold()) if labels.count(gold.casefold()) == 1 else None


# --- golds -------------------------------------------------------------------------------------


def stated(value: object, *, solution: bool = False) -> str:
    r"""Return the gold answer that a field states: what follows `####`, the last box, or all of it.

    solution: the field is a worked solution, which states an answer only where it marks one.
    """
    text = _gold_text(value)
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


def _gold_text(value: object) -> str:
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
    opened: list[int | None] = []  # of each open brace: where its content starts, if a box's
    start, content = -1, None
    for found in _BRACES.finditer(text):
        if found[2] is not None and found.start() > start:
            start, content = found.start(2), found[2]
        elif found[1] or found[0] == "{":
            opened.append(found.end() if found[1] else None)
        elif found[0] == "}" and opened:
            begun = opened.pop()
            if begun is not None and begun > start:
                start, content = begun, text[begun : found.start()]
    return content


# --- the rest ----------------------------------------------------------------------------------


def as_json(value: Mapping[str, Any]) -> str:
    """Return `value` as strict JSON that Parquet can hold, whatever a source put in it."""
    try:
        plain = _plain(value)
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False)
        return text if storable(text) else json.dumps(plain, allow_nan=False)
    except RecursionError:
        raise Refused("fields nested too deeply") from None


def storable(text: str) -> bool:
    """Say whether `text` is valid Unicode (a lone surrogate is not)."""
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
