r"""Parse the structure of an answer: matrices, unions, tuples, intervals, sets, lists.

>>> structure("(2,5]")
('(]', ['2', '5'])
>>> as_interval(r"2 \le x < 5", "[2,5)")
'[2,5)'
"""

import re

from malt_data.graders.arithmetic import evaluate

COMPARISON = re.compile(r"(<|>|\\le(?![a-z])|\\ge(?![a-z]))")
_MATRIX = re.compile(r"\\begin\{matrix\}(.*?)\\end\{matrix\}")
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def split(text: str, separators: str) -> list[str] | None:
    """Split at top-level separators; None if there are none or the brackets do not match."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in separators:
            parts.append(text[start:index].strip())
            start = index + 1
    if not parts:
        return None
    return [part for part in (*parts, text[start:].strip()) if part]


def structure(text: str) -> tuple[str, list[str]] | None:
    """Return the shape and the parts of a matrix, union, tuple, interval, set or list."""
    return _matrix(text) or _union(text) or _items(text)


def _items(text: str) -> tuple[str, list[str]] | None:
    r"""Return (brackets, items) of a tuple, interval, set or bare list; `\pm` is two items."""
    shape = ""
    inner = text.strip()
    if inner.startswith("\\{") and inner.endswith("\\}"):
        shape, inner = "{}", inner[2:-2]
    elif inner[:1] in _PAIRS and inner[-1:] in (")", "]", "}") and _encloses(inner):
        if split(inner[1:-1], ",;") is None:
            return None
        shape, inner = inner[0] + inner[-1], inner[1:-1]
    if evaluate(inner) is not None and not re.fullmatch(r"-?\d+,\d+", inner):
        return (shape, [inner]) if shape else None
    parts = split(inner, ";") or split(inner, ",") or [inner]
    parts = [signed for part in parts for signed in _signs(part)]
    return (shape, parts) if len(parts) > 1 or shape else None


def _encloses(text: str) -> bool:
    """Return whether the first bracket is closed by the last one, of any kind: `[2,5)`."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return index == len(text) - 1
    return False


def _signs(text: str) -> list[str]:
    return [text.replace("\\pm", "+"), text.replace("\\pm", "-")] if "\\pm" in text else [text]


def _union(text: str) -> tuple[str, list[str]] | None:
    parts = re.split(r"\\cup(?![a-zA-Z])", text)
    return ("cup", [part.strip() for part in parts]) if len(parts) > 1 else None


def _matrix(text: str) -> tuple[str, list[str]] | None:
    matrix = _MATRIX.fullmatch(text.strip("[]() "))
    if matrix is None:
        return None
    rows = [row for row in matrix[1].split("\\\\") if row.strip()]
    widths = {row.count("&") for row in rows}
    if len(widths) != 1:
        return None
    return f"matrix{len(rows)}", [cell.strip() for row in rows for cell in row.split("&")]


def as_interval(text: str, other: str) -> str:
    r"""Rewrite `2 \le x < 5` and `x > 3` as intervals if the other side is one or a relation."""
    sides = [side.strip() for side in COMPARISON.split(text)]
    if len(sides) not in (3, 5) or not (_items(other) or COMPARISON.search(other)):
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
