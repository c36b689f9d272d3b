r"""Normalise equivalent mathematical notations to one spelling.

>>> spell(r"\dfrac12 \leq x")
'\\frac{1}{2} \\le x'
"""

import re

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
TEXT = re.compile(r"\\(?:text(?:bf|rm|it)?|mbox|mathrm|mathbf|hbox)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"(?<=[^\w\s])\s+|\s+(?=[^\w\s\\])|(?<=\d)\s+(?=[a-zA-Z])")


def spell(text: str) -> str:
    r"""Normalise equivalent notations to one spelling (`\dfrac`, `≤`, `\left(`, …)."""
    text = text.strip().translate({0x2212: "-", 0x2013: "-", 0xA0: " ", 0x2009: " "})
    for opening, closing in _DELIMITERS:
        inner = text.rstrip(".")[len(opening) : -len(closing)]
        if text.startswith(opening) and text.rstrip(".").endswith(closing) and "$" not in inner:
            text = inner
    if "\\begin" not in text:
        text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text)  # escaped twice
    for pattern, new in _SPELLING:
        text = pattern.sub(new, text)
    return text.strip(" ,;").removesuffix(".").strip()


def words(text: str) -> str:
    """Return `text` with text commands unwrapped, spaces removed and case folded."""
    plain = _SPACES.sub("", TEXT.sub(r" \1 ", text)).strip(" .").removesuffix("^\\circ")
    plain = re.sub(r"^\(([a-zA-Z])\)$", r"\1", plain)
    return plain.casefold() if re.search(r"[a-zA-Z]{3}", TEXT.sub(r"\1", text)) else plain
