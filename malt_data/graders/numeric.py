r"""Numbers, compared as exact fractions: the grader of GSM8K and of every gold that is a number.

No computer algebra and no floats: `0.1 + 0.2` is `3/10`, `1/2^99` is not `1/2^98`, and one
comparison takes microseconds. Currency, thousands separators, units, percent signs and LaTeX
dress are formatting; "A or B", "not X", a clock time, a range or a list is no number.

    >>> parse_number(r"\$1,\!234.50 in total")
    Fraction(2469, 2)
    >>> equal("25 apples (out of 30)", "25"), equal("24 or 25", "25")
    (True, False)

Roots and pi are kept to 60 digits and marked inexact: enough to tell any two answers apart.
A decimal of six or more digits also equals the fraction or root that it is a rounding of
(`0.333333` and `1/3`); a shorter one does not (`0.33`).

Longer than other modules because it is read as one chain: undress, evaluate, compare, and only then
read the number out of words and prose.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from math import factorial, isqrt

MAX_CHARS = 500  # no number is longer; what is longer costs time and is never right
MAX_BITS = 40_000  # 10^6 and 2^2005 are answers, 9^9^9^9 is an attack
MAX_DEPTH = 40
_DIGITS = 60
_ONE_DIGITS = 10**_DIGITS
_PI = Fraction(3141592653589793238462643383279502884197169399375105820974944592307816406286, 10**75)


@dataclass(frozen=True, slots=True)
class Value:
    """A number; `decimals` counts the digits after the point where it was written as a decimal."""

    q: Fraction
    exact: bool = True
    decimals: int | None = None


class _Refused(ValueError):
    """Not an arithmetic expression, or one too large to evaluate."""


# --- dress: what is taken off before a number is read ------------------------------------------

_SWAPS = str.maketrans(
    {"−": "-", "–": "-", "—": "-", "‑": "-", "×": "*", "÷": "/", "⁄": "/", "·": "*", "π": "\\pi "}
    | {"\u00a0": " ", "\u2009": " ", "\u202f": " ", "≈": "\\approx ", "√": "\\sqrt ", "`": ""}
    | {"½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4", "’": "'", "°": " degrees "}
)
_DRESS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\\(?:text(?:bf|rm|it)?|mbox|mathrm|mathbf|hbox)\s*\{([^{}]*)\}", r" \1 "),
        (r"\s*\{\s*,\s*\}\s*|,\s*\\!\s*", ","),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degrees?\b", " degrees "),
        (r"(?<!\\)\\[!,;: ]|\\q?quad\b|~|\\left\b|\\right\b|\\[()\[\]]|\*\*|__", ""),
        (r"\\%", "%"),
        (r"[$€£¥₹]|\bUSD\b|\\\$", ""),
        (r"\\(?:cdot|times)\b", "*"),
        (r"\\div\b", "/"),
        (r"(?<![a-zA-Z\\])pi\b", r"\\pi "),
        (r"\\[dtc]frac\b", r"\\frac"),
        (r"(\d)\s*[xX]\s*10\s*\^", r"\1*10^"),
        (r"\\frac\s*(\d)", r"\\frac{\1}"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
    )
)
_PLAIN_DRESS = tuple(pair for pair in _DRESS if not pair[0].pattern.startswith("\\\\"))
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALED = re.compile(r"(\d[\d,]*(?:\.\d+)?)\s*(" + "|".join(_SCALES) + r")s?\b", re.IGNORECASE)


def undress(text: str) -> str:
    """Return `text` without currency, LaTeX spacing, text commands and typographic variants."""
    text = text.translate(_SWAPS)
    for pattern, new in _DRESS if "\\" in text or "{" in text else _PLAIN_DRESS:
        text = pattern.sub(new, text)
    return _SCALED.sub(lambda m: f"({m[1]}*10^{_SCALES[m[2].lower()]})", text).strip()


# --- arithmetic --------------------------------------------------------------------------------

_NUMBER = (
    r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?(?![\d,])|\d+(?:\.\d*)?(?:[eE][+-]?\d{1,4}(?!\d))?|\.\d+"
)
_TOKEN = re.compile(rf"\s*(?:({_NUMBER})|(\\frac|\\sqrt|\\pi)(?![a-zA-Z])|([-+*/^!(){{}}\[\]]))")
_MIXED = re.compile(r"([-+]?)\s*(\d[\d,]*)\s+(\d+)\s*/\s*(\d+)")
_GROUPED = re.compile(r"-?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?")
_COMMA = re.compile(r"-?(?:0,\d+|\d+,(?:\d{1,2}|\d{4,}))")
_RANGE = re.compile(r"\d[\d,.]*\s*-+\s*\d[\d,.]*")


def evaluate(text: str) -> Value | None:
    """Return the value of `text` where the whole of it is an arithmetic expression, else None.

    Understands + - * / ^ ! ( ), `\\frac`, `\\sqrt`, `\\pi`, mixed numbers (`1 1/2`,
    `7\\frac12`), `1e2` and space- or comma-grouped thousands. `10-12` is a range, not -2.
    """
    if len(text) > MAX_CHARS:
        return None
    text = undress(text).rstrip(".").strip()
    if _RANGE.fullmatch(text):
        return None
    if mixed := _MIXED.fullmatch(text):
        text = f"{mixed[1]}({mixed[2]}+{mixed[3]}/{mixed[4]})"
    elif _GROUPED.fullmatch(text):
        text = text.replace(" ", "")
    elif _COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        return _Arithmetic(text).value()
    except _Refused:
        return None


class _Arithmetic:
    """A recursive-descent reader of one expression; it refuses rather than guesses."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise _Refused(text)
            self.tokens.append(found[1] or found[2] or found[3])
            at = found.end()
        self.at = 0
        self.depth = 0

    def value(self) -> Value:
        result = self.sum()
        if self.at != len(self.tokens):
            raise _Refused("trailing text")
        return result

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        """Consume and return the next token where it is one of `wanted`, else return ''."""
        token = self.peek()
        if token and token in wanted:
            self.at += 1
            return token
        return ""

    def sum(self) -> Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused("too deep")
        total = self.product()
        while sign := self.take("+", "-"):
            term = self.product()
            q = total.q + term.q if sign == "+" else total.q - term.q
            total = _bounded(q, total.exact and term.exact)
        self.depth -= 1
        return total

    def product(self) -> Value:
        result = self.signed()
        while True:
            if operator := self.take("*", "/"):
                factor = self.signed()
            elif self.peek() in ("\\frac", "\\sqrt", "\\pi", "("):
                operator, factor = "*", self.power()
            else:
                return result
            exact = result.exact and factor.exact
            if operator == "*":
                result = _bounded(result.q * factor.q, exact)
            elif factor.q == 0:
                raise _Refused("division by zero")
            else:
                result = _bounded(result.q / factor.q, exact)

    def signed(self) -> Value:
        if self.take("+"):
            return self.power()
        if self.take("-"):
            value = self.power()
            return Value(-value.q, value.exact, value.decimals)
        return self.power()

    def power(self) -> Value:
        base = self.atom()
        if not self.take("^"):
            return base
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused("too deep")
        exponent = self.signed()
        self.depth -= 1
        n = exponent.q
        bits = max(base.q.numerator.bit_length(), base.q.denominator.bit_length())
        if not exponent.exact or n.denominator != 1 or abs(n) * bits > MAX_BITS:
            raise _Refused("exponent")
        if base.q == 0 and n <= 0:
            raise _Refused("zero to the power of zero")
        return _bounded(base.q ** int(n), base.exact)

    def atom(self) -> Value:
        value = self.plain()
        while self.take("!"):
            if not value.exact or value.q.denominator != 1 or not 0 <= value.q <= 300:
                raise _Refused("factorial")
            value = Value(Fraction(factorial(int(value.q))))
        return value

    def plain(self) -> Value:
        if opening := self.take("(", "{"):
            value = self.sum()
            if not self.take(")" if opening == "(" else "}"):
                raise _Refused("unbalanced")
            return Value(value.q, value.exact)
        if self.take("\\frac"):
            over, under = self.braced(), self.braced()
            if under.q == 0:
                raise _Refused("division by zero")
            return _bounded(over.q / under.q, over.exact and under.exact)
        if self.take("\\sqrt"):
            if self.peek() == "[":
                raise _Refused("higher root")
            return _root(self.braced())
        if self.take("\\pi"):
            return Value(_PI, exact=False)
        whole = _literal(self.number())
        if self.peek() == "\\frac" and whole.exact and whole.q.denominator == 1:
            part = self.plain()
            if part.exact and 0 < part.q < 1:  # 7\frac12 is a mixed number
                return Value(whole.q + part.q)
            return _bounded(whole.q * part.q, part.exact)
        return whole

    def braced(self) -> Value:
        if self.peek() not in ("{", "("):
            raise _Refused("argument expected")
        return self.plain()

    def number(self) -> str:
        token = self.peek()
        if not token or not (token[0].isdigit() or token[0] == "."):
            raise _Refused("number expected")
        self.at += 1
        return token


def _literal(token: str) -> Value:
    token = token.replace(",", "")
    mantissa, _, exponent = token.lower().partition("e")
    whole, point, decimals = mantissa.partition(".")
    shift = int(exponent or 0)
    if abs(shift) > 1000:
        raise _Refused("exponent")
    q = Fraction(int((whole + decimals) or 0), 10 ** len(decimals)) * Fraction(10) ** shift
    return Value(q, decimals=len(decimals) if point and not exponent else None)


def _bounded(q: Fraction, exact: bool) -> Value:
    if max(q.numerator.bit_length(), q.denominator.bit_length()) > MAX_BITS:
        raise _Refused("too large")
    if not exact:  # keep 60 digits and no more, or sums of roots grow without end
        scale = _ONE_DIGITS if abs(q) >= 1 or q == 0 else 10 ** (_DIGITS + int(_magnitude(q)))
        q = Fraction(round(q * scale), scale)
    return Value(q, exact)


def _magnitude(q: Fraction) -> int:
    return max(0, (q.denominator.bit_length() - abs(q.numerator).bit_length()) * 3 // 10)


def _root(value: Value) -> Value:
    if value.q < 0:
        raise _Refused("root of a negative number")
    over, under = value.q.numerator, value.q.denominator
    if value.exact and isqrt(over) ** 2 == over and isqrt(under) ** 2 == under:
        return Value(Fraction(isqrt(over), isqrt(under)))
    scale = 10 ** (_DIGITS + _magnitude(value.q))
    return Value(Fraction(isqrt(over * scale * scale // under), scale), exact=False)


# --- comparison --------------------------------------------------------------------------------

_NOISE = Fraction(1, 10**45)  # what 60 digits leave of sqrt(2)*sqrt(2) - 2


def same(a: Value, b: Value) -> bool:
    """Say whether two values are equal, or one is a rounding of the other to six or more digits."""
    if a.exact and b.exact and a.q == b.q:
        return True
    if not (a.exact and b.exact):
        noise = _NOISE if 0 in (a.q, b.q) else max(abs(a.q), abs(b.q)) / 10**30
        if abs(a.q - b.q) <= noise:
            return True
    return _rounds(a, b) or _rounds(b, a)


def _rounds(short: Value, full: Value) -> bool:
    """Say whether the decimal `short` is `full`, rounded or cut to the digits `short` has."""
    if short.decimals is None or full.decimals is not None or not short.q:
        return False
    if len(str(abs(short.q.numerator * 10**short.decimals // short.q.denominator))) < 6:
        return False
    if full.exact and _terminates(full.q):
        return False  # 5.0000001 is not a rounding of 5
    return abs(short.q - full.q) < Fraction(1, 10**short.decimals)


def _terminates(q: Fraction) -> bool:
    rest = q.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


# --- reading an answer -------------------------------------------------------------------------

_PLAIN = re.compile(r"[-+]?(?:[1-9]\d{0,2}(?:,\d{3})+|\d{1,300})(?:\.\d{1,100})?\.?")
_REFUSED = re.compile(
    r"\b(?:not?|none|wrong)\b|n't\b|\\pm|\d:\d|\b(?:or|to|and|through)\s+\(?[-$]?\.?\d"
    r"|\d\s*-+\s*\d+ +[a-z]|\d\s+\(|\d\s*[a-z]+,?\s+\d+\s*[a-z]+$",
    re.IGNORECASE,
)
_ANNOTATION = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator
_REMARK = re.compile(
    r"\s+\((?=[^()\\]*[a-zA-Z]{2})[^()]*\)"
    r"|,?\s+\b(?:which|since|because|where|meaning)\b.*|(?<=\d),\s+not\b.*",
    re.DOTALL,
)
_EQUALS = re.compile(r"(?<![<>!\\])=")
_APPROX = re.compile(r"\\approx(?![a-z])|\\simeq|~")
_LEADING = re.compile(
    rf"([-+]?(?:\d+\s+\d+/\d+|(?:{_NUMBER})(?:\s*/\s*\d+)?|\(\S{{1,60}}\)|-?\\frac\{{-?\d+\}}\{{\d+\}}))"
    r"(?:\s*%|\s*[a-zA-Z]{2,}\b[^\\=+*_]*|\s*[mgshlL](?:/[a-z]+)?[²³]?(?:\s*\^?\{?[23]\}?)?)[\s.]*"
)
_ANY = re.compile(rf"(?<![\w.\\^_{{])[-+]?(?:{_NUMBER})(?:/\d+)?(?![\w^_\\])")
_AFTER_IS = re.compile(r"\b(?:is|are|was|were|be|equals)\b:?\s*(?=[-+(.\d\\])")


def parse_number(text: str) -> Fraction | None:
    """Return the exact number that an answer states, or None where it states none or several."""
    value = read(text)
    return value.q if value is not None and value.exact else None


def is_number(text: str) -> bool:
    """Say whether a gold is nothing but an exact number (units and words make it none)."""
    if "%" in text or "circ" in text or "°" in text or "text" in text or _COMMA.fullmatch(text):
        return False
    value = evaluate(text)
    return value is not None and value.exact


def equal(answer: str, gold: str) -> bool:
    """Say whether `answer` states the number `gold`."""
    theirs = read(gold)
    said = [read(part) for part in answer.split(" or ", 3)] if " or " in answer else [read(answer)]
    return theirs is not None and all(ours is not None and same(ours, theirs) for ours in said)


def read(text: str) -> Value | None:
    """Return the value an answer states, units, remarks and an equation's left side left off."""
    text = text.strip()
    if len(text) > MAX_CHARS:
        return None
    if _PLAIN.fullmatch(text):
        return _literal(text.lstrip("+-").rstrip(".")) if text[0] not in "+-" else evaluate(text)
    text = undress(_REMARK.sub("", _ANNOTATION.sub("", text)))
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
    """Return the number after the last "is", else the only number, of a sentence."""
    *_, after = _AFTER_IS.split(text)
    if after != text and (leading := _LEADING.fullmatch(after)):
        return evaluate(leading[1])
    if after != text and (value := evaluate(after)):
        return value
    found = {match[0] for match in _ANY.finditer(text)}
    if (
        len(found) != 1
        or not re.match(r"[a-zA-Z]{2}", text)
        or re.search(r"[\\^=_]|\d[a-z]\b", text)
    ):
        return None
    return evaluate(found.pop())


_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_UNITS = {word: number for number, word in enumerate(_SMALL.split())}
_UNITS |= {word: 10 * number for number, word in enumerate(_TENS.split(), start=2)}


def _in_words(text: str) -> Value | None:
    """Return the number that begins a text in words: `twenty-five apples`."""
    words = re.findall(r"[a-z]+", text.lower())
    if any(character.isdigit() for character in text) or len(words) > 12 or not words:
        return None
    total = group = used = 0
    for word in words:
        if word in _UNITS:
            group += _UNITS[word]
        elif word == "hundred" and group:
            group *= 100
        elif word in _SCALES and group:
            total, group = total + group * 10 ** _SCALES[word], 0
        elif word != "and" or not used:
            break
        used += 1
    rest = words[used:]
    if not used or len(rest) > 3 or any(word in _UNITS or word == "or" for word in rest):
        return None
    return Value(Fraction(total + group))
