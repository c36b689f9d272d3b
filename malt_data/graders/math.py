r"""Mathematical answers: structure first, exact values next, computer algebra last and least.

math-verify alone errs in known ways. It accepts `2516_8` for `2516_9`, `(2,5)` for `\{2,5\}`,
`1/2^{99}` for `1/2^{98}` and `5 cm` for `5 inches`; it refuses `2 \le x < 5` for `[2,5)`. So both
sides are taken apart here (lists, tuples, intervals, matrices, `x =`, units, percent), and what
is left is compared by exact value (`numeric.py`). Only two symbolic leaves reach math-verify,
and its yes is checked at sample points, because its tolerance is absolute.

    >>> quick(r"\boxed{\frac34}", "0.75"), quick("(5,2)", "(2,5)"), quick("x^2-1", "(x-1)(x+1)")
    (True, False, None)

`quick` never blocks: None means that computer algebra is needed. `equal` supplies it and may
hang (`(a+b+c+d+e)^{60}`), so only a worker of `pool.py` calls it.

Longer than other modules because its parts call each other in a circle: a list holds tuples, a
tuple relations, a relation becomes an interval, and all of them end in the same leaf.
"""

import logging
import re
from collections.abc import Callable
from typing import Any

from malt_data.graders import numeric

MAX_CHARS = 500
MAX_ITEMS = 50
MAX_NESTING = 30
Leaf = Callable[[str, str], bool | None]

# --- one spelling ------------------------------------------------------------------------------

_SPELLING: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\\(?:boxed|fbox)\s*\{(.*)\}", r"\1"),
        (r"(?<=\d)\s*\{\s*,\s*\}\s*(?=\d{3})|(?<=\d),\s*\\!\s*(?=\d{3})", ","),
        (r"\\(?:left|right|[bB]ig{1,2}[lr]?)(?![a-zA-Z])\.?", ""),
        (r"(?<!\\)\\[!,;: ]|\\q?quad(?![a-zA-Z])|~", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\frac\s*(\w)", r"\\frac{\1}"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\w)", r"\1{\2}"),
        (r"\\sqrt\s*([\w])", r"\\sqrt{\1}"),
        (r"\\(?:leq|leqslant)(?![a-zA-Z])|<=|≤", r"\\le "),
        (r"\\(?:geq|geqslant)(?![a-zA-Z])|>=|≥", r"\\ge "),
        (r"\\neq(?![a-zA-Z])|!=|≠", r"\\ne "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\(?:varnothing|\{\s*\\\})|∅", r"\\emptyset "),
        (r"∞|\\text\s*\{\s*(?:infinity|inf)\s*\}", r"\\infty "),
        (r"\+\s*\\infty", r"\\infty"),
        (r"∪", r"\\cup "),
        (r"∈", r"\\in "),
        (r"\\mathrm\{e\}|\\text\{e\}", "e"),
        (r"\\?\$", ""),
        (r"\\(?:displaystyle|limits)(?![a-zA-Z])", ""),
        (r"\s*\^\s*\{?\s*(?:\\circ|°)\s*\}?|°", r"^\\circ "),
        (r"([_^])\s*\{\s*(\w)\s*\}", r"\1\2"),
        (r"\\begin\{(?:[pbvB]?matrix|array)\}(?:\{[lcr| ]*\})?", r"\\begin{matrix}"),
        (r"\\end\{(?:[pbvB]?matrix|array)\}", r"\\end{matrix}"),
        (r"^\s*\\text\s*\{([^{}]*,[^{}]*)\}\s*$", r"\1"),
        (r"\s+", " "),
    )
)
_DELIMITERS = (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$"))
_TEXT = re.compile(r"\\(?:text(?:bf|rm|it)?|mbox|mathrm|mathbf|hbox)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"(?<=[^\w\s])\s+|\s+(?=[^\w\s\\])|(?<=\d)\s+(?=[a-zA-Z])")


def spell(text: str) -> str:
    r"""Return one spelling of the notations that mean the same (`\dfrac`, `≤`, `\left(`, …)."""
    text = text.strip().translate({0x2212: "-", 0x2013: "-", 0xA0: " ", 0x2009: " "})
    for opening, closing in _DELIMITERS:
        inner = text.rstrip(".")[len(opening) : -len(closing)]
        if text.startswith(opening) and text.rstrip(".").endswith(closing) and "$" not in inner:
            text = inner
    if "\\begin" not in text:
        text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)  # escaped once too often
    for pattern, new in _SPELLING:
        text = pattern.sub(new, text)
    return text.strip(" ,;").removesuffix(".").strip()


def _words(text: str) -> str:
    """Return `text` with its text commands opened, its spaces reduced and its case folded."""
    plain = _SPACES.sub("", _TEXT.sub(r" \1 ", text)).strip(" .").removesuffix("^\\circ")
    plain = re.sub(r"^\(([a-zA-Z])\)$", r"\1", plain)
    return plain.casefold() if re.search(r"[a-zA-Z]{3}", _TEXT.sub(r"\1", text)) else plain


# --- the cost guard ----------------------------------------------------------------------------

_COSTLY = re.compile(
    r"\^\{*\(*-?\d{4,}|\d\}*\)*\^\{*\(*\d+\}*\)*\^|\d{4,}\)*!|\^[^!]{0,12}\)!|!!|\\binom\{\d{5,}"
)


def too_costly(text: str) -> bool:
    """Say whether computer algebra must not see `text`: towers, huge powers and factorials."""
    depth = deepest = 0
    for character in text[: MAX_CHARS + 1]:
        depth += (character in "({[") - (character in ")}]")
        deepest = max(deepest, depth)
    return (
        len(text) > MAX_CHARS
        or deepest > MAX_NESTING
        or _COSTLY.search(text.replace(" ", "")) is not None
    )


# --- structure ---------------------------------------------------------------------------------

_BASE = re.compile(r"\(?([0-9A-Za-z]+(?:\.[0-9A-Za-z]+)?)\)?_\{?(\d+)\}?")
_CLOCK = re.compile(r"\d\s*:\s*\d")
_LABEL = re.compile(
    r"((?:[a-zA-Z]|\\(?!sin|cos|tan|cot|sec|csc|log|ln|exp|arc)[a-zA-Z]+)(?:_\{?\w+\}?)?'*(?:\([a-zA-Z](?:,[a-zA-Z])*\))?"
    r"|\((?:[a-zA-Z](?:_\{?\w+\}?)?)(?:,\s*[a-zA-Z](?:_\{?\w+\}?)?)+\)|[A-Z]{2,5}"
    r"|[a-zA-Z_{}0-9]+:[a-zA-Z_{}0-9]+)\s*(=|\\in(?![a-zA-Z]))\s*"
)
_UNIT = re.compile(
    r"(?<=\S)\s*(?:\\(?:text(?:bf|rm|it)?|mbox|mathrm)\s*\{\s*([^{}]*?)\s*\}"
    r"|\s([a-zA-Z][a-zA-Z. ]{1,24}))\s*(?:\^\{?([23])\}?)?\.?$"
)
_PERCENT = re.compile(r"\s*(?:\\?%|\\(?:text|mbox)\{\s*(?:%|percent)\s*\}|percent(?:age)?|pct)$")
_COMPARISON = re.compile(r"(<|>|\\le(?![a-z])|\\ge(?![a-z]))")
_AND = re.compile(
    r"\s*(?:\\text\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z]))\s*"
)
_OR = re.compile(r"\s*(?:\\text\s*\{\s*or\s*\}|(?<![a-zA-Z\\])or(?![a-zA-Z]))\s*")
_NOT = re.compile(r"\bnot\b|n't\b|\bnone\b", re.IGNORECASE)
_APPROX = re.compile(r"\\approx(?![a-z])|≈")
_MATRIX = re.compile(r"\\begin\{matrix\}(.*?)\\end\{matrix\}")
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def quick(answer: str, gold: str) -> bool | None:
    """Return whether answer and gold are equal where that needs no computer algebra, else None."""
    return _compare(answer, gold, lambda ours, theirs: None)


def equal(answer: str, gold: str) -> bool:
    """Say whether `answer` is mathematically the `gold`. May hang: call it through the pool."""
    return bool(_compare(answer, gold, _by_algebra))


def _compare(answer: str, gold: str, leaf: Leaf) -> bool | None:
    if not answer.strip() or not gold.strip():
        return False
    if len(answer) > MAX_CHARS or len(gold) > MAX_CHARS:
        return answer.strip() == gold.strip()
    decimal = numeric.evaluate(answer)  # `0,25` and `0.25` are one number, though a comma parts
    if decimal and decimal.decimals and "," in gold and numeric.evaluate(gold) == decimal:
        return True
    ours, theirs = spell(answer), spell(gold)
    if _words(ours) == _words(theirs):
        return bool(ours)
    if _NOT.search(ours) and not _NOT.search(theirs):
        return False
    forms = [ours] if _is_words(ours) else [form.strip(" ,") for form in _OR.split(ours)]
    if len(forms) > 1 and not _AND.search(theirs) and _split(theirs, ",;") is None:
        verdicts = [_parts(form, theirs, leaf, 0) for form in forms]  # "x+11 or 11+x"
        return False if False in verdicts else None if None in verdicts else True
    return _parts(ours, theirs, leaf, 0)


def _parts(ours: str, theirs: str, leaf: Leaf, depth: int) -> bool | None:
    """Compare two spelled texts part by part; None where a part needs computer algebra."""
    if _words(ours) == _words(theirs):
        return True
    if depth > 6:
        return False
    ours, theirs = _unlabel(_commas(ours), _commas(theirs))
    if _is_literal(ours) or _is_literal(theirs):
        return _literals(ours, theirs)
    if _COMPARISON.search(ours) or _COMPARISON.search(theirs):
        a_interval, b_interval = _as_interval(ours, theirs), _as_interval(theirs, ours)
        if not _COMPARISON.search(a_interval + b_interval):
            ours, theirs = a_interval, b_interval
    a, b = _structure(ours), _structure(theirs)
    if a is not None and b is not None:
        return _all_parts(a, b, leaf, depth + 1)
    if a is not None or b is not None:
        return _set_of_one(ours, theirs, a, b, leaf, depth)
    return _leaf(ours, theirs, leaf)


def _all_parts(
    a: tuple[str, list[str]], b: tuple[str, list[str]], leaf: Leaf, depth: int
) -> bool | None:
    """Compare the parts of two structures: in order for tuples, in any order for bare lists."""
    (shape, ours), (wanted, theirs) = a, b
    column = {shape, wanted} in ({"[]", f"matrix{len(theirs)}"}, {"[]", "matrix1"})
    alike = shape == wanted or column or {shape, wanted} <= {"", "{}"}
    if not alike and not ({shape, wanted} <= {"", "()"} and len(theirs) > 1):
        return False
    if len(ours) != len(theirs) or len(ours) > MAX_ITEMS:
        return False
    named = [len({m[1] for item in side if (m := _LABEL.match(item))}) for side in (ours, theirs)]
    ordered = sorted(named)[0] == 0 and sorted(named)[1] > 1  # x=1, y=2 and 1, 2
    if ordered or not {shape, wanted} <= {"", "{}", "cup"}:
        verdicts = [_parts(x, y, leaf, depth) for x, y in zip(ours, theirs, strict=True)]
        return False if False in verdicts else None if None in verdicts else True
    return _any_order(ours, theirs, leaf, depth)


def _any_order(ours: list[str], theirs: list[str], leaf: Leaf, depth: int) -> bool | None:
    """Pair the items of two lists off; equality is transitive, so the first fit is as good."""
    unsure: list[str] = []
    left = list(theirs)
    for item in ours:
        verdicts = [_parts(item, other, leaf, depth) for other in left]
        if True in verdicts:
            left.pop(verdicts.index(True))
        elif None in verdicts:
            unsure.append(item)
        else:
            return False
    return None if unsure else True


def _set_of_one(
    ours: str,
    theirs: str,
    a: tuple[str, list[str]] | None,
    b: tuple[str, list[str]] | None,
    leaf: Leaf,
    depth: int,
) -> bool | None:
    """Compare a structure with something that is none: `{5}` is 5, `(1,2)` is no matrix."""
    for part, other in ((a, theirs), (b, ours)):
        if part is not None and part[0] in ("", "{}") and len(part[1]) == 1:
            return _parts(part[1][0], other, leaf, depth + 1)
    relation = re.compile(r"=|<|>|\\(?:le|ge|ne)(?![a-z])|\\pm")
    matrices = "matrix}" in ours and "matrix}" in theirs  # a sum of matrices is none yet
    if matrices or relation.search(ours) or relation.search(theirs):
        return leaf(ours, theirs)
    return False


def _leaf(ours: str, theirs: str, leaf: Leaf) -> bool | None:
    """Compare two texts without structure: exact values, then words, then algebra."""
    (ours, percent), (theirs, wanted_percent) = _unpercent(ours), _unpercent(theirs)
    (core, unit), (wanted, wanted_unit) = _ununit(ours), _ununit(theirs)
    a, b = numeric.evaluate(core), numeric.evaluate(wanted)
    if a is not None and b is not None:
        if unit and wanted_unit and _unit_name(unit) != _unit_name(wanted_unit):
            return False
        if numeric.same(a, b):
            return True
        scaled = numeric.Value(a.q * 100, a.exact)
        return wanted_percent and not percent and numeric.same(scaled, b)
    if _words(core) == _words(wanted):
        return not (unit and wanted_unit) or _unit_name(unit) == _unit_name(wanted_unit)
    if len(core) == len(wanted) == 1:
        return False  # two letters; algebra would not mind their case
    for text in (core, wanted):
        if "\\infty" in text or "\\emptyset" in text or "dots" in text or _is_words(text):
            return False
    return leaf(core, wanted)


def _is_words(text: str) -> bool:
    """Say whether a text is words (`Evelyn`, `two lines`) rather than a product of variables."""
    plain = _TEXT.sub(r" \1 ", text).strip()
    return re.fullmatch(r"[A-Za-z][A-Za-z' -]{3,}", plain) is not None


def _is_literal(text: str) -> bool:
    """Say whether only the exact text counts: base-n numbers, clock times and ratios."""
    return _BASE.fullmatch(text) is not None or _CLOCK.search(text) is not None


def _literals(ours: str, theirs: str) -> bool:
    a, b = (re.sub(r"\\text\{[^{}]*\}$|[\s(){}.]", "", _words(side)) for side in (ours, theirs))
    if _CLOCK.search(ours) and _CLOCK.search(theirs):
        a, b = (re.sub(r"(?<!\d)0+(?=\d)|[\s(){}.]", "", _words(side)) for side in (ours, theirs))
    return a == b


def _unlabel(ours: str, theirs: str) -> tuple[str, str]:
    """Take `x =`, `f(x) =`, `(p,q) =`, `x \\in` off where that leaves the same question open."""
    ours, theirs = _last_side(ours), _last_side(theirs)
    a, b = _only_label(ours), _only_label(theirs)
    if a is not None and b is not None:
        names = {a[1].replace(" ", ""), b[1].replace(" ", "")}
        functions = {name for name in names if name == "y" or name.endswith(")")}
        if len(names) > 1 and len(functions) < 2:
            return ours, theirs
    if a is not None and (b is not None or not _is_equation(theirs)):
        ours = ours[a.end() :]
    if b is not None and (a is not None or not _is_equation(theirs[b.end() :] + ours)):
        theirs = theirs[b.end() :]
    return ours, theirs


def _only_label(text: str) -> re.Match[str] | None:
    """Return the label of the whole text: `x=1,2` has one, `x=1,y=2` labels its items."""
    found = _LABEL.match(text)
    if found and _split(text[found.end() :], ",;") and "=" in text[found.end() :]:
        return None
    return found


def _commas(text: str) -> str:
    """Write the "and" and "or" of a list as a comma, or as `;` where they part whole lists."""
    parts = [part.strip(" ,") for part in _AND.split(text)]
    if len(parts) < 2 or _is_words(text):
        return text
    return (" ; " if all(_split(part, ",") for part in parts) else " , ").join(filter(None, parts))


def _is_equation(text: str) -> bool:
    return re.search(r"=|<|>|\\(?:le|ge|ne)(?![a-zA-Z])", text) is not None


def _last_side(text: str) -> str:
    """Return `x = 3` of `x = 1 + 2 = 3 \\approx 3.0`, and `2` of `1 + 1 = 2`."""
    if _split(text, ",;") is not None:
        return text
    exact, *rest = _APPROX.split(text)
    text = exact.strip() or rest[0].strip() if rest else text
    if rest and _LABEL.fullmatch(text.strip() + "="):
        text = f"{text}={rest[0].strip()}"
    sides = [side.strip() for side in text.split("=")]
    if len(sides) > 2:
        return f"{sides[0]}={sides[-1]}" if _LABEL.fullmatch(sides[0] + "=") else sides[-1]
    if len(sides) == 2 and numeric.evaluate(sides[0]) and _unpercent(sides[1])[0] != sides[1]:
        return sides[1]  # 0.56 = 56\%
    return text


def _unpercent(text: str) -> tuple[str, bool]:
    bare = _PERCENT.sub("", text)
    return bare.strip(), bare != text


def _ununit(text: str) -> tuple[str, str]:
    """Split `5\\text{ cm}^2` into `5` and `cm2`; words alone are no unit."""
    text = re.sub(r"\s*\^\\circ\s*$", "", text)
    found = _UNIT.search(text)
    if found is None or not re.search(r"\d|\\pi", text[: found.start()]):
        return text, ""
    return text[: found.start()].strip(), (found[1] or found[2] or "") + (found[3] or "")


def _unit_name(unit: str) -> str:
    """Return one name for the spellings of a unit that are only spellings."""
    name = re.sub(r"[^a-z0-9]", "", unit.lower())
    name, area = re.subn(r"^sq(?:uare)?|2$", "", name)
    name, volume = re.subn(r"^cu(?:bic)?|3$", "", name)
    longer = {"centimeter": "cm", "meter": "m", "kilometer": "km", "inche": "in", "inch": "in"}
    longer |= {"dollar": "usd", "degree": "deg", "feet": "ft", "foot": "ft", "minute": "min"}
    name = name.removesuffix("s") if len(name) > 2 else name
    return longer.get(name, name) + "2" * area + "3" * volume


# --- taking apart ------------------------------------------------------------------------------


def _split(text: str, separators: str) -> list[str] | None:
    """Split at top-level separators; None where there is none or the brackets do not match."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in separators:
            parts.append(text[start:at].strip())
            start = at + 1
    if not parts:
        return None
    return [part for part in (*parts, text[start:].strip()) if part]


def _structure(text: str) -> tuple[str, list[str]] | None:
    """Return the shape and the parts of a matrix, union, tuple, interval, set or list."""
    return _matrix(text) or _union(text) or _items(text)


def _items(text: str) -> tuple[str, list[str]] | None:
    r"""Return (brackets, items) of a tuple, interval, set or bare list; `\pm` is two items."""
    shape = ""
    inner = text.strip()
    if inner.startswith("\\{") and inner.endswith("\\}"):
        shape, inner = "{}", inner[2:-2]
    elif inner[:1] in _PAIRS and inner[-1:] in (")", "]", "}") and _encloses(inner):
        if _split(inner[1:-1], ",;") is None:
            return None
        shape, inner = inner[0] + inner[-1], inner[1:-1]
    if numeric.evaluate(inner) is not None and not re.fullmatch(r"-?\d+,\d+", inner):
        return (shape, [inner]) if shape else None
    parts = _split(inner, ";") or _split(inner, ",") or [inner]
    parts = [signed for part in parts for signed in _signs(part)]
    return (shape, parts) if len(parts) > 1 or shape else None


def _encloses(text: str) -> bool:
    """Say whether the first bracket closes at the very end (any kind: `[2,5)`)."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return at == len(text) - 1
    return False


def _signs(text: str) -> list[str]:
    return [text.replace("\\pm", "+"), text.replace("\\pm", "-")] if "\\pm" in text else [text]


def _union(text: str) -> tuple[str, list[str]] | None:
    parts = re.split(r"\\cup(?![a-zA-Z])", text)
    return ("cup", [part.strip() for part in parts]) if len(parts) > 1 else None


def _matrix(text: str) -> tuple[str, list[str]] | None:
    found = _MATRIX.fullmatch(text.strip("[]() "))
    if found is None:
        return None
    rows = [row for row in found[1].split("\\\\") if row.strip()]
    widths = {row.count("&") for row in rows}
    if len(widths) != 1:
        return None
    return f"matrix{len(rows)}", [cell.strip() for row in rows for cell in row.split("&")]


def _as_interval(text: str, other: str) -> str:
    r"""Rewrite `2 \le x < 5` and `x > 3` as intervals where the other side is one or another."""
    sides = [side.strip() for side in _COMPARISON.split(text)]
    if len(sides) not in (3, 5) or not (_items(other) or _COMPARISON.search(other)):
        return text
    if any(sign in (">", "\\ge") for sign in sides[1::2]):
        flip = {">": "<", "\\ge": "\\le", "<": ">", "\\le": "\\ge"}
        sides = [flip.get(side, side) for side in reversed(sides)]
    if any(sign not in ("<", "\\le") for sign in sides[1::2]):
        return text
    variable = re.compile(r"[a-zA-Z](?:_\w)?|[a-z]\([a-z]\)")
    if len(sides) == 5 and variable.fullmatch(sides[2]):
        low, first, _, second, high = sides
    elif len(sides) == 3 and variable.fullmatch(sides[0]) and not variable.fullmatch(sides[2]):
        low, first, second, high = "-\\infty", "<", sides[1], sides[2]
    elif len(sides) == 3 and variable.fullmatch(sides[2]):
        low, first, second, high = sides[0], sides[1], "<", "\\infty"
    else:
        return text
    return f"{'[' if first != '<' else '('}{low},{high}{']' if second != '<' else ')'}"


# --- computer algebra --------------------------------------------------------------------------


_ALGEBRA_ERRORS: tuple[type[Exception], ...] = (ArithmeticError, AttributeError, LookupError)
_ALGEBRA_ERRORS += (RuntimeError, TypeError, ValueError)


def _by_algebra(answer: str, gold: str) -> bool:
    """Ask math-verify, both sides boxed and without its own clock, and check its yes."""
    import math_verify
    from latex2sympy2_extended import NormalizationConfig  # type: ignore[import-untyped]

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    if too_costly(answer) or too_costly(gold):
        return False
    normal = NormalizationConfig(  # `units` would read the t of `12 + 10t` as tons
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all"
    )
    config = [math_verify.LatexExtractionConfig(True, 0, normal)]
    try:
        ours, theirs = (
            math_verify.parse(f"\\boxed{{{text}}}", config, parsing_timeout=None)
            for text in (answer, gold)
        )
        if not ours or not theirs:
            return False
        yes = math_verify.verify(theirs, ours, timeout_seconds=None)
    except _ALGEBRA_ERRORS:
        return False
    return bool(yes) and not _differ_somewhere(ours[0], theirs[0])


def _differ_somewhere(ours: Any, theirs: Any) -> bool:
    """Say whether two expressions differ in relative terms where math-verify rounds absolutely."""
    import sympy  # type: ignore[import-untyped]

    if not isinstance(ours, sympy.Expr) or not isinstance(theirs, sympy.Expr):
        return False
    symbols = sorted(ours.free_symbols | theirs.free_symbols, key=str)
    point = {symbol: sympy.Rational(7 + 4 * n, 5 + 2 * n) for n, symbol in enumerate(symbols)}
    try:
        a, b = (complex(side.subs(point).evalf(30)) for side in (ours, theirs))
    except _ALGEBRA_ERRORS:
        return False
    return abs(a - b) > 1e-7 * max(abs(a), abs(b))
