r"""Mathematical answers: structure first, exact values next, computer algebra last and least.

math-verify alone errs in known ways. It accepts `2516_8` for `2516_9`, `(2,5)` for `\{2,5\}`,
`1/2^{99}` for `1/2^{98}` and `5 cm` for `5 inches`; it refuses `2 \le x < 5` for `[2,5)`. So both
sides are taken apart here (lists, tuples, intervals, matrices, `x =`, units, percent), and what
is left is compared by exact value (`arithmetic.py`). Only two symbolic leaves reach math-verify,
which errs in ways of its own (`algebra.py`).

    >>> quick(r"\boxed{\frac34}", "0.75"), quick("(5,2)", "(2,5)"), quick("x^2-1", "(x-1)(x+1)")
    (True, False, None)

`quick` never blocks: None means that computer algebra is needed. `equal` supplies it and may
hang (`(a+b+c+d+e)^{60}`), so only a worker of `pool.py` calls it.
"""

import re
from collections.abc import Callable

from malt_data.graders.algebra import MAX_CHARS, by_algebra
from malt_data.graders.arithmetic import Value, evaluate, same
from malt_data.graders.notation import TEXT, spell, words
from malt_data.graders.structure import COMPARISON, as_interval, split, structure

MAX_ITEMS = 50
Leaf = Callable[[str, str], bool | None]

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
_AND = re.compile(
    r"\s*(?:\\text\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z]))\s*"
)
_OR = re.compile(r"\s*(?:\\text\s*\{\s*or\s*\}|(?<![a-zA-Z\\])or(?![a-zA-Z]))\s*")
_NOT = re.compile(r"\bnot\b|n't\b|\bnone\b", re.IGNORECASE)
_APPROX = re.compile(r"\\approx(?![a-z])|≈")


def quick(answer: str, gold: str) -> bool | None:
    """Return whether answer and gold are equal where that needs no computer algebra, else None."""
    return _compare(answer, gold, lambda ours, theirs: None)


def equal(answer: str, gold: str) -> bool:
    """Say whether `answer` is mathematically the `gold`. May hang: call it through the pool."""
    return bool(_compare(answer, gold, by_algebra))


def _compare(answer: str, gold: str, leaf: Leaf) -> bool | None:
    if not answer.strip() or not gold.strip():
        return False
    if len(answer) > MAX_CHARS or len(gold) > MAX_CHARS:
        return answer.strip() == gold.strip()
    decimal = evaluate(answer)  # `0,25` and `0.25` are one number, though a comma parts
    if decimal and decimal.decimals and "," in gold and evaluate(gold) == decimal:
        return True
    ours, theirs = spell(answer), spell(gold)
    if words(ours) == words(theirs):
        return bool(ours)
    if _NOT.search(ours) and not _NOT.search(theirs):
        return False
    forms = [ours] if _is_words(ours) else [form.strip(" ,") for form in _OR.split(ours)]
    if len(forms) > 1 and not _AND.search(theirs) and split(theirs, ",;") is None:
        verdicts = [_parts(form, theirs, leaf, 0) for form in forms]  # "x+11 or 11+x"
        return False if False in verdicts else None if None in verdicts else True
    return _parts(ours, theirs, leaf, 0)


def _parts(ours: str, theirs: str, leaf: Leaf, depth: int) -> bool | None:
    """Compare two spelled texts part by part; None where a part needs computer algebra."""
    if words(ours) == words(theirs):
        return True
    if depth > 6:
        return False
    ours, theirs = _unlabel(_commas(ours), _commas(theirs))
    if _is_literal(ours) or _is_literal(theirs):
        return _literals(ours, theirs)
    if COMPARISON.search(ours) or COMPARISON.search(theirs):
        a_interval, b_interval = as_interval(ours, theirs), as_interval(theirs, ours)
        if not COMPARISON.search(a_interval + b_interval):
            ours, theirs = a_interval, b_interval
    a, b = structure(ours), structure(theirs)
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
    a, b = evaluate(core), evaluate(wanted)
    if a is not None and b is not None:
        if unit and wanted_unit and _unit_name(unit) != _unit_name(wanted_unit):
            return False
        if same(a, b):
            return True
        scaled = Value(a.q * 100, a.exact)
        return wanted_percent and not percent and same(scaled, b)
    if words(core) == words(wanted):
        return not (unit and wanted_unit) or _unit_name(unit) == _unit_name(wanted_unit)
    if len(core) == len(wanted) == 1:
        return False  # two letters; algebra would not mind their case
    for text in (core, wanted):
        if "\\infty" in text or "\\emptyset" in text or "dots" in text or _is_words(text):
            return False
    return leaf(core, wanted)


def _is_words(text: str) -> bool:
    """Say whether a text is words (`Evelyn`, `two lines`) rather than a product of variables."""
    plain = TEXT.sub(r" \1 ", text).strip()
    return re.fullmatch(r"[A-Za-z][A-Za-z' -]{3,}", plain) is not None


def _is_literal(text: str) -> bool:
    """Say whether only the exact text counts: base-n numbers, clock times and ratios."""
    return _BASE.fullmatch(text) is not None or _CLOCK.search(text) is not None


def _literals(ours: str, theirs: str) -> bool:
    a, b = (re.sub(r"\\text\{[^{}]*\}$|[\s(){}.]", "", words(side)) for side in (ours, theirs))
    if _CLOCK.search(ours) and _CLOCK.search(theirs):
        a, b = (re.sub(r"(?<!\d)0+(?=\d)|[\s(){}.]", "", words(side)) for side in (ours, theirs))
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
    if found and split(text[found.end() :], ",;") and "=" in text[found.end() :]:
        return None
    return found


def _commas(text: str) -> str:
    """Write the "and" and "or" of a list as a comma, or as `;` where they part whole lists."""
    parts = [part.strip(" ,") for part in _AND.split(text)]
    if len(parts) < 2 or _is_words(text):
        return text
    return (" ; " if all(split(part, ",") for part in parts) else " , ").join(filter(None, parts))


def _is_equation(text: str) -> bool:
    return re.search(r"=|<|>|\\(?:le|ge|ne)(?![a-zA-Z])", text) is not None


def _last_side(text: str) -> str:
    """Return `x = 3` of `x = 1 + 2 = 3 \\approx 3.0`, and `2` of `1 + 1 = 2`."""
    if split(text, ",;") is not None:
        return text
    exact, *rest = _APPROX.split(text)
    text = exact.strip() or rest[0].strip() if rest else text
    if rest and _LABEL.fullmatch(text.strip() + "="):
        text = f"{text}={rest[0].strip()}"
    sides = [side.strip() for side in text.split("=")]
    if len(sides) > 2:
        return f"{sides[0]}={sides[-1]}" if _LABEL.fullmatch(sides[0] + "=") else sides[-1]
    if len(sides) == 2 and evaluate(sides[0]) and _unpercent(sides[1])[0] != sides[1]:
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
