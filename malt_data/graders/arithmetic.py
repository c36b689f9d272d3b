r"""Evaluate arithmetic expressions as exact fractions.

There is no computer algebra and no floating point: `0.1 + 0.2` is `3/10`, `1/2^99` is not `1/2^98`,
and one evaluation takes microseconds. Currency, thousands separators and LaTeX are formatting.

    >>> evaluate(r"\$1,\!234.50").q
    Fraction(2469, 2)
    >>> same(evaluate("0.333333"), evaluate("1/3")), same(evaluate("0.33"), evaluate("1/3"))
    (True, False)

Roots and pi have 60 digits, enough to distinguish any two answers, and are marked inexact. A
decimal of six or more digits equals the fraction or root that it is a rounding of; a shorter one
does not.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from math import factorial, isqrt

MAX_CHARS = 500  # longer texts take time and are never right
MAX_BITS = 40_000  # 10^6 and 2^2005 are answers, 9^9^9^9 is an attack
MAX_DEPTH = 40
_DIGITS = 60
_ONE_DIGITS = 10**_DIGITS
_PI = Fraction(3141592653589793238462643383279502884197169399375105820974944592307816406286, 10**75)


@dataclass(frozen=True, slots=True)
class Value:
    """A number; `decimals` counts the digits after the point if it was written as a decimal."""

    q: Fraction
    exact: bool = True
    decimals: int | None = None


class _NotArithmetic(ValueError):
    """Not an arithmetic expression, or one too large to evaluate."""


# --- formatting, removed before a number is read -----------------------------------------------

_CHARACTERS = str.maketrans(
    {"−": "-", "–": "-", "—": "-", "‑": "-", "×": "*", "÷": "/", "⁄": "/", "·": "*", "π": "\\pi "}
    | {"\u00a0": " ", "\u2009": " ", "\u202f": " ", "≈": "\\approx ", "√": "\\sqrt ", "`": ""}
    | {"½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4", "’": "'", "°": " degrees "}
)
_FORMATTING: tuple[tuple[re.Pattern[str], str], ...] = tuple(
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
_PLAIN_FORMATTING = tuple(pair for pair in _FORMATTING if not pair[0].pattern.startswith("\\\\"))
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALED = re.compile(r"(\d[\d,]*(?:\.\d+)?)\s*(" + "|".join(SCALES) + r")s?\b", re.IGNORECASE)


def strip_formatting(text: str) -> str:
    """Return `text` without currency, LaTeX spacing, text commands and typographic variants."""
    text = text.translate(_CHARACTERS)
    for pattern, new in _FORMATTING if "\\" in text or "{" in text else _PLAIN_FORMATTING:
        text = pattern.sub(new, text)
    return _SCALED.sub(lambda m: f"({m[1]}*10^{SCALES[m[2].lower()]})", text).strip()


# --- arithmetic --------------------------------------------------------------------------------

NUMBER = (
    r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?(?![\d,])|\d+(?:\.\d*)?(?:[eE][+-]?\d{1,4}(?!\d))?|\.\d+"
)
_TOKEN = re.compile(rf"\s*(?:({NUMBER})|(\\frac|\\sqrt|\\pi)(?![a-zA-Z])|([-+*/^!(){{}}\[\]]))")
_MIXED = re.compile(r"([-+]?)\s*(\d[\d,]*)\s+(\d+)\s*/\s*(\d+)")
_GROUPED = re.compile(r"-?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?")
DECIMAL_COMMA = re.compile(r"-?(?:0,\d+|\d+,(?:\d{1,2}|\d{4,}))")
_RANGE = re.compile(r"\d[\d,.]*\s*-+\s*\d[\d,.]*")


def evaluate(text: str) -> Value | None:
    """Return the value of `text` if all of it is an arithmetic expression, else None.

    Supports + - * / ^ ! ( ), `\\frac`, `\\sqrt`, `\\pi`, mixed numbers (`1 1/2`,
    `7\\frac12`), `1e2` and space- or comma-grouped thousands. `10-12` is a range, not -2.
    """
    if len(text) > MAX_CHARS:
        return None
    text = strip_formatting(text).rstrip(".").strip()
    if _RANGE.fullmatch(text):
        return None
    if mixed := _MIXED.fullmatch(text):
        text = f"{mixed[1]}({mixed[2]}+{mixed[3]}/{mixed[4]})"
    elif _GROUPED.fullmatch(text):
        text = text.replace(" ", "")
    elif DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        return _Parser(text).value()
    except _NotArithmetic:
        return None


class _Parser:
    """A recursive-descent parser for one expression that rejects anything ambiguous."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        start = 0
        while start < len(text):
            match = _TOKEN.match(text, start)
            if match is None:
                raise _NotArithmetic(text)
            self.tokens.append(match[1] or match[2] or match[3])
            start = match.end()
        self.position = 0
        self.depth = 0

    def value(self) -> Value:
        result = self.sum()
        if self.position != len(self.tokens):
            raise _NotArithmetic("trailing text")
        return result

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self, *tokens: str) -> str:
        """Consume and return the next token if it is one of `tokens`, else return ''."""
        token = self.peek()
        if token and token in tokens:
            self.position += 1
            return token
        return ""

    def sum(self) -> Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _NotArithmetic("too deep")
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
                raise _NotArithmetic("division by zero")
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
            raise _NotArithmetic("too deep")
        exponent = self.signed()
        self.depth -= 1
        n = exponent.q
        bits = max(base.q.numerator.bit_length(), base.q.denominator.bit_length())
        if not exponent.exact or n.denominator != 1 or abs(n) * bits > MAX_BITS:
            raise _NotArithmetic("exponent")
        if base.q == 0 and n <= 0:
            raise _NotArithmetic("zero to the power of zero")
        return _bounded(base.q ** int(n), base.exact)

    def atom(self) -> Value:
        value = self.plain()
        while self.take("!"):
            if not value.exact or value.q.denominator != 1 or not 0 <= value.q <= 300:
                raise _NotArithmetic("factorial")
            value = Value(Fraction(factorial(int(value.q))))
        return value

    def plain(self) -> Value:
        if opening := self.take("(", "{"):
            value = self.sum()
            if not self.take(")" if opening == "(" else "}"):
                raise _NotArithmetic("unbalanced")
            return Value(value.q, value.exact)
        if self.take("\\frac"):
            top, bottom = self.braced(), self.braced()
            if bottom.q == 0:
                raise _NotArithmetic("division by zero")
            return _bounded(top.q / bottom.q, top.exact and bottom.exact)
        if self.take("\\sqrt"):
            if self.peek() == "[":
                raise _NotArithmetic("higher root")
            return _root(self.braced())
        if self.take("\\pi"):
            return Value(_PI, exact=False)
        whole = literal(self.number())
        if self.peek() == "\\frac" and whole.exact and whole.q.denominator == 1:
            part = self.plain()
            if part.exact and 0 < part.q < 1:  # 7\frac12 is a mixed number
                return Value(whole.q + part.q)
            return _bounded(whole.q * part.q, part.exact)
        return whole

    def braced(self) -> Value:
        if self.peek() not in ("{", "("):
            raise _NotArithmetic("argument expected")
        return self.plain()

    def number(self) -> str:
        token = self.peek()
        if not token or not (token[0].isdigit() or token[0] == "."):
            raise _NotArithmetic("number expected")
        self.position += 1
        return token


def literal(token: str) -> Value:
    """Return the value of a number token, such as `1,234.5` or `1e2`."""
    token = token.replace(",", "")
    mantissa, _, exponent = token.lower().partition("e")
    whole, point, decimals = mantissa.partition(".")
    shift = int(exponent or 0)
    if abs(shift) > 1000:
        raise _NotArithmetic("exponent")
    q = Fraction(int((whole + decimals) or 0), 10 ** len(decimals)) * Fraction(10) ** shift
    return Value(q, decimals=len(decimals) if point and not exponent else None)


def _bounded(q: Fraction, exact: bool) -> Value:
    if max(q.numerator.bit_length(), q.denominator.bit_length()) > MAX_BITS:
        raise _NotArithmetic("too large")
    if not exact:  # limit to 60 digits, or sums of roots keep growing
        scale = _ONE_DIGITS if abs(q) >= 1 or q == 0 else 10 ** (_DIGITS + int(_magnitude(q)))
        q = Fraction(round(q * scale), scale)
    return Value(q, exact)


def _magnitude(q: Fraction) -> int:
    return max(0, (q.denominator.bit_length() - abs(q.numerator).bit_length()) * 3 // 10)


def _root(value: Value) -> Value:
    if value.q < 0:
        raise _NotArithmetic("root of a negative number")
    top, bottom = value.q.numerator, value.q.denominator
    if value.exact and isqrt(top) ** 2 == top and isqrt(bottom) ** 2 == bottom:
        return Value(Fraction(isqrt(top), isqrt(bottom)))
    scale = 10 ** (_DIGITS + _magnitude(value.q))
    return Value(Fraction(isqrt(top * scale * scale // bottom), scale), exact=False)


# --- comparison --------------------------------------------------------------------------------

_NOISE = Fraction(1, 10**45)  # the rounding error of sqrt(2)*sqrt(2) - 2 at 60 digits


def same(a: Value, b: Value) -> bool:
    """Return whether two values are equal, or one rounds the other to six or more digits."""
    if a.exact and b.exact and a.q == b.q:
        return True
    if not (a.exact and b.exact):
        noise = _NOISE if 0 in (a.q, b.q) else max(abs(a.q), abs(b.q)) / 10**30
        if abs(a.q - b.q) <= noise:
            return True
    return _is_rounding_of(a, b) or _is_rounding_of(b, a)


def _is_rounding_of(short: Value, full: Value) -> bool:
    """Return whether the decimal `short` is `full`, rounded or truncated to its digits."""
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
