r"""Compare mathematical answers by structure, then by exact value, and last by computer algebra.

math-verify alone has known errors. It accepts `2516_8` for `2516_9`, `(2,5)` for `\{2,5\}`,
`1/2^{99}` for `1/2^{98}` and `5 cm` for `5 inches`; it rejects `2 \le x < 5` for `[2,5)`. So both
sides are parsed here (lists, tuples, intervals, matrices, `x =`, units, percent), and their parts
are compared by exact value (`arithmetic.py`). Only pairs of symbolic expressions are passed to
math-verify (`algebra.py`).

    >>> quick(r"\boxed{\frac34}", "0.75"), quick("(5,2)", "(2,5)"), quick("x^2-1", "(x-1)(x+1)")
    (True, False, None)

`quick` never blocks: None means that computer algebra is needed. `equal` uses it and may hang
(`(a+b+c+d+e)^{60}`), so only a worker of `pool.py` calls it.
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
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}(?![\d,])")
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
    """Return whether answer and gold are equal, None if that needs computer algebra."""
    return _compare(answer, gold, lambda answer, gold: None)


def equal(answer: str, gold: str) -> bool:
    """Return whether `answer` equals `gold` mathematically. May hang: call it through the pool."""
    return bool(_compare(answer, gold, by_algebra))


def _compare(answer: str, gold: str, leaf: Leaf) -> bool | None:
    if not answer.strip() or not gold.strip():
        return False
    if len(answer) > MAX_CHARS or len(gold) > MAX_CHARS:
        return answer.strip() == gold.strip()
    decimal = evaluate(answer)  # `0,25` is `0.25`, not a list
    if decimal and decimal.decimals and "," in gold and evaluate(gold) == decimal:
        return True
    answer, gold = spell(answer), spell(gold)
    if words(answer) == words(gold):
        return bool(answer)
    if _NOT.search(answer) and not _NOT.search(gold):
        return False
    forms = [answer] if _is_words(answer) else [form.strip(" ,") for form in _OR.split(answer)]
    if len(forms) > 1 and not _AND.search(gold) and split(gold, ",;") is None:
        verdicts = [_parts(form, gold, leaf, 0) for form in forms]  # "x+11 or 11+x"
        return False if False in verdicts else None if None in verdicts else True
    return _parts(answer, gold, leaf, 0)


def _parts(answer: str, gold: str, leaf: Leaf, depth: int) -> bool | None:
    """Compare two normalised texts part by part; None if a part needs computer algebra."""
    if words(answer) == words(gold):
        return True
    if depth > 6:
        return False
    answer, gold = _unlabel(_commas(answer), _commas(gold))
    if _is_literal(answer) or _is_literal(gold):
        return _literals(answer, gold)
    if COMPARISON.search(answer) or COMPARISON.search(gold):
        answer_interval, gold_interval = as_interval(answer, gold), as_interval(gold, answer)
        if not COMPARISON.search(answer_interval + gold_interval):
            answer, gold = answer_interval, gold_interval
    answer_structure, gold_structure = structure(answer), structure(gold)
    if answer_structure is not None and gold_structure is not None:
        return _all_parts(answer_structure, gold_structure, leaf, depth + 1)
    if answer_structure is not None or gold_structure is not None:
        return _singleton(answer, gold, answer_structure, gold_structure, leaf, depth)
    return _leaf(answer, gold, leaf)


def _all_parts(
    answer: tuple[str, list[str]], gold: tuple[str, list[str]], leaf: Leaf, depth: int
) -> bool | None:
    """Compare the parts of two structures: in order for tuples, in any order for bare lists."""
    (answer_shape, answer_items), (gold_shape, gold_items) = answer, gold
    shapes = {answer_shape, gold_shape}
    column = shapes in ({"[]", f"matrix{len(gold_items)}"}, {"[]", "matrix1"})
    alike = answer_shape == gold_shape or column or shapes <= {"", "{}"}
    if not alike and not (shapes <= {"", "()"} and len(gold_items) > 1):
        return False
    if len(answer_items) != len(gold_items) or len(answer_items) > MAX_ITEMS:
        return False
    fewer, more = sorted(map(_count_labels, (answer_items, gold_items)))
    ordered = fewer == 0 and more > 1  # x=1, y=2 and 1, 2
    if ordered or not shapes <= {"", "{}", "cup"}:
        pairs = zip(answer_items, gold_items, strict=True)
        verdicts = [_parts(x, y, leaf, depth) for x, y in pairs]
        return False if False in verdicts else None if None in verdicts else True
    return _any_order(answer_items, gold_items, leaf, depth)


def _count_labels(items: list[str]) -> int:
    return len({match[1] for item in items if (match := _LABEL.match(item))})


def _any_order(answer: list[str], gold: list[str], leaf: Leaf, depth: int) -> bool | None:
    """Match the items of two lists; greedily, which suffices because equality is transitive."""
    undecided = False
    remaining = list(gold)
    for item in answer:
        verdicts = [_parts(item, other, leaf, depth) for other in remaining]
        if True in verdicts:
            remaining.pop(verdicts.index(True))
        elif None in verdicts:
            undecided = True
        else:
            return False
    return None if undecided else True


def _singleton(
    answer: str,
    gold: str,
    answer_structure: tuple[str, list[str]] | None,
    gold_structure: tuple[str, list[str]] | None,
    leaf: Leaf,
    depth: int,
) -> bool | None:
    """Compare a structure with a plain text: `{5}` equals 5, `(1,2)` does not equal a matrix."""
    for text, parsed, other in (
        (answer, answer_structure, gold),
        (gold, gold_structure, answer),
    ):
        if parsed is not None and parsed[0] in ("", "{}") and len(parsed[1]) == 1:
            return _parts(parsed[1][0], other, leaf, depth + 1)
        if parsed is not None and parsed[0] == "" and _THOUSANDS.match(text):
            return _leaf(answer, gold, leaf)  # not a list, as the other side is none
    relation = re.compile(r"=|<|>|\\(?:le|ge|ne)(?![a-z])|\\pm")
    matrices = "matrix}" in answer and "matrix}" in gold  # e.g. a sum of matrices
    if matrices or relation.search(answer) or relation.search(gold):
        return leaf(answer, gold)
    return False


def _leaf(answer: str, gold: str, leaf: Leaf) -> bool | None:
    """Compare two texts without structure: exact values, then words, then algebra."""
    (answer, answer_percent), (gold, gold_percent) = _split_percent(answer), _split_percent(gold)
    (answer, answer_unit), (gold, gold_unit) = _split_unit(answer), _split_unit(gold)
    both_units = bool(answer_unit and gold_unit)
    units_differ = both_units and _unit_name(answer_unit) != _unit_name(gold_unit)
    value, expected = evaluate(answer), evaluate(gold)
    if value is not None and expected is not None:
        if units_differ:
            return False
        if same(value, expected):
            return True
        scaled = Value(value.q * 100, value.exact)
        return gold_percent and not answer_percent and same(scaled, expected)
    if words(answer) == words(gold):
        return not units_differ
    if len(answer) == len(gold) == 1:
        return False  # two different letters; computer algebra would ignore their case
    for text in (answer, gold):
        if "\\infty" in text or "\\emptyset" in text or "dots" in text or _is_words(text):
            return False
    return leaf(answer, gold)


def _is_words(text: str) -> bool:
    """Return whether a text is words (`Evelyn`, `two lines`) rather than a product of variables."""
    plain = TEXT.sub(r" \1 ", text).strip()
    return re.fullmatch(r"[A-Za-z][A-Za-z' -]{3,}", plain) is not None


def _is_literal(text: str) -> bool:
    """Return whether only the exact text counts: base-n numbers, clock times and ratios."""
    return _BASE.fullmatch(text) is not None or _CLOCK.search(text) is not None


def _literals(answer: str, gold: str) -> bool:
    a, b = (re.sub(r"\\text\{[^{}]*\}$|[\s(){}.]", "", words(side)) for side in (answer, gold))
    if _CLOCK.search(answer) and _CLOCK.search(gold):
        a, b = (re.sub(r"(?<!\d)0+(?=\d)|[\s(){}.]", "", words(side)) for side in (answer, gold))
    return a == b


def _unlabel(answer: str, gold: str) -> tuple[str, str]:
    """Remove `x =`, `f(x) =`, `(p,q) =`, `x \\in` if that does not change the meaning."""
    answer, gold = _last_side(answer), _last_side(gold)
    answer_label, gold_label = _only_label(answer), _only_label(gold)
    if answer_label is not None and gold_label is not None:
        names = {answer_label[1].replace(" ", ""), gold_label[1].replace(" ", "")}
        functions = {name for name in names if name == "y" or name.endswith(")")}
        if len(names) > 1 and len(functions) < 2:
            return answer, gold
    if answer_label is not None and (gold_label is not None or not _is_equation(gold)):
        answer = answer[answer_label.end() :]
    if gold_label is not None:
        rest = gold[gold_label.end() :]
        if answer_label is not None or not _is_equation(rest + answer):
            gold = rest
    return answer, gold


def _only_label(text: str) -> re.Match[str] | None:
    """Return the label of the whole text: `x=1,2` has one, in `x=1,y=2` the items have labels."""
    label = _LABEL.match(text)
    if label and split(text[label.end() :], ",;") and "=" in text[label.end() :]:
        return None
    return label


def _commas(text: str) -> str:
    """Replace "and" and "or" in a list by a comma, or by `;` if they separate whole lists."""
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
    if len(sides) == 2 and evaluate(sides[0]) and _split_percent(sides[1])[0] != sides[1]:
        return sides[1]  # 0.56 = 56\%
    return text


def _split_percent(text: str) -> tuple[str, bool]:
    without_percent = _PERCENT.sub("", text)
    return without_percent.strip(), without_percent != text


def _split_unit(text: str) -> tuple[str, str]:
    """Split `5\\text{ cm}^2` into `5` and `cm2`; words alone are not a unit."""
    text = re.sub(r"\s*\^\\circ\s*$", "", text)
    unit = _UNIT.search(text)
    if unit is None or not re.search(r"\d|\\pi", text[: unit.start()]):
        return text, ""
    return text[: unit.start()].strip(), (unit[1] or unit[2] or "") + (unit[3] or "")


def _unit_name(unit: str) -> str:
    """Return a canonical name for a unit, so that `cm` and `centimeters` are the same."""
    name = re.sub(r"[^a-z0-9]", "", unit.lower())
    name, area = re.subn(r"^sq(?:uare)?|2$", "", name)
    name, volume = re.subn(r"^cu(?:bic)?|3$", "", name)
    short_names = {
        "centimeter": "cm",
        "meter": "m",
        "kilometer": "km",
        "inche": "in",
        "inch": "in",
    }
    short_names |= {"dollar": "usd", "degree": "deg", "feet": "ft", "foot": "ft", "minute": "min"}
    name = name.removesuffix("s") if len(name) > 2 else name
    return short_names.get(name, name) + "2" * area + "3" * volume
