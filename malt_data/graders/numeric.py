r"""Numbers: the grader of GSM8K and of every gold that is a number.

Units, percent signs and remarks are formatting; "A or B", "not X", a clock time, a range or a list
is not a number.

    >>> parse_number(r"\$1,\!234.50 in total")
    Fraction(2469, 2)
    >>> equal("25 apples (out of 30)", "25"), equal("24 or 25", "25")
    (True, False)
"""

import re
from fractions import Fraction
from functools import lru_cache

from malt_data.graders.arithmetic import (
    DECIMAL_COMMA,
    MAX_CHARS,
    NUMBER,
    SCALES,
    Value,
    evaluate,
    literal,
    same,
    strip_formatting,
)

_PLAIN = re.compile(r"[-+]?(?:[1-9]\d{0,2}(?:,\d{3})+|\d{1,300})(?:\.\d{1,100})?\.?")
_REFUSED = re.compile(
    r"\b(?:not?|none|wrong)\b|n't\b|\\pm|\d:\d|\b(?:or|to|and|through)\s+\(?[-$]?\.?\d"
    r"|\d\s*-+\s*\d+ +[a-z]|\d\s+\(|\d\s*[a-z]+,?\s+\d+\s*[a-z]+$"
    r"|\band an? (?:half|third|quarter|fifth|tenth)\b",
    re.IGNORECASE,
)
_MINUS = re.compile(r"\b(?:minus|negative)\s+(?=[$.]?\d)", re.IGNORECASE)
_ANNOTATION = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator annotations
_REMARK = re.compile(
    r"\s+\((?=[^()\\]*[a-zA-Z]{2})[^()]*\)"
    r"|,?\s+\b(?:which|since|because|where|meaning)\b.*|(?<=\d),\s+not\b.*",
    re.DOTALL,
)
_EQUALS = re.compile(r"(?<![<>!\\])=")
_APPROX = re.compile(r"\\approx(?![a-z])|\\simeq|~")
_LEADING = re.compile(
    rf"([-+]?(?:\d+\s+\d+/\d+|(?:{NUMBER})(?:\s*/\s*\d+)?|\(\S{{1,60}}\)|-?\\frac\{{-?\d+\}}\{{\d+\}}))"
    r"(?:\s*%|\s*[a-zA-Z]{2,}\b[^\\=+*_]*|\s*[mgshlL](?:/[a-z]+)?[²³]?(?:\s*\^?\{?[23]\}?)?)[\s.]*"
)
_ANY = re.compile(rf"(?<![\w.\\^_{{])[-+]?(?:{NUMBER})(?:/\d+)?(?![\w^_\\])")
_AFTER_IS = re.compile(r"\b(?:is|are|was|were|be|equals)\b:?\s*(?=[-+(.\d\\])")


def parse_number(text: str) -> Fraction | None:
    """Return the exact number in an answer, or None if it has none or several."""
    value = read(text)
    return value.q if value is not None and value.exact else None


def is_number(text: str) -> bool:
    """Return whether a gold is nothing but an exact number, without units or words."""
    if (
        "%" in text
        or "circ" in text
        or "°" in text
        or "text" in text
        or DECIMAL_COMMA.fullmatch(text)
    ):
        return False
    value = evaluate(text)
    return value is not None and value.exact


def equal(answer: str, gold: str) -> bool:
    """Return whether `answer` is the number `gold`."""
    expected = read(gold)
    parts = answer.split(" or ", 3) if " or " in answer else [answer]
    values = [read(part) for part in parts]
    return expected is not None and all(v is not None and same(v, expected) for v in values)


@lru_cache(maxsize=4096)  # every node of a tree is compared with the same gold
def read(text: str) -> Value | None:
    """Return the value of an answer, ignoring units, remarks and the left side of an equation."""
    text = text.strip()
    if len(text) > MAX_CHARS:
        return None
    if _PLAIN.fullmatch(text):
        return literal(text.lstrip("+-").rstrip(".")) if text[0] not in "+-" else evaluate(text)
    text = strip_formatting(_REMARK.sub("", _ANNOTATION.sub("", text)))
    text = _MINUS.sub("-", text)
    if _REFUSED.search(text):
        return None
    text = _conclusion(text.rstrip(" .,;:?\n"))
    value = evaluate(text)
    if value is None and (leading := _LEADING.fullmatch(text)):
        value = evaluate(leading[1])
    return value or _in_words(text) or _in_prose(text)


def _conclusion(text: str) -> str:
    """Return the right-most side of an equation, before any approximation of it."""
    exact, *approximations = _APPROX.split(text)
    if approximations and not any(character.isdigit() for character in exact):
        exact = approximations[0]
    return _EQUALS.split(exact)[-1].strip()


def _in_prose(text: str) -> Value | None:
    """Return the number after the last "is" of a sentence, else its only number."""
    *_, after = _AFTER_IS.split(text)
    if after != text and (leading := _LEADING.fullmatch(after)):
        return evaluate(leading[1])
    if after != text and (value := evaluate(after)):
        return value
    numbers = {match[0] for match in _ANY.finditer(text)}
    if (
        len(numbers) != 1
        or not re.match(r"[a-zA-Z]{2}", text)
        or re.search(r"[\\^=_]|\d[a-z]\b", text)
    ):
        return None
    return evaluate(numbers.pop())


_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_UNITS = {word: number for number, word in enumerate(_SMALL.split())}
_UNITS |= {word: 10 * number for number, word in enumerate(_TENS.split(), start=2)}
_OTHERS = {"or", "half", "halves", "third", "thirds", "fifth", "fifths", "tenth", "tenths"}
"""After a number in words, it is another one or only a part: `one half`."""


def _in_words(text: str) -> Value | None:
    """Return the number spelled out at the start of a text: `twenty-five apples`."""
    words = re.findall(r"[a-z]+", text.lower())
    if any(character.isdigit() for character in text) or len(words) > 12 or not words:
        return None
    total = group = used = 0
    for word in words:
        if word in _UNITS:
            group += _UNITS[word]
        elif word == "hundred" and group:
            group *= 100
        elif word in SCALES and group:
            total, group = total + group * 10 ** SCALES[word], 0
        elif word != "and" or not used:
            break
        used += 1
    rest = words[used:]
    if not used or len(rest) > 3 or any(word in _UNITS or word in _OTHERS for word in rest):
        return None
    return Value(Fraction(total + group))
