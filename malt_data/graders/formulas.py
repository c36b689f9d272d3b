r"""Formulas in running text: `$…$`, `\(…\)`, `\[…\]`, and whether there are words besides them."""

import re

SEGMENT = re.compile(
    r"\$\$(?P<a>[^$]+)\$\$|(?<!\\)\$(?P<b>(?:[^$\\]|\\.)+)\$|\\\[(?P<c>[^\\]*(?:\\(?!\])[^\\]*)*)\\\]"
    r"|\\\((?P<d>[^\\]*(?:\\(?!\))[^\\]*)*)\\\)",
    re.DOTALL,
)
_TEXTUAL = re.compile(
    r"\\(?:text(?:bf|rm|it)?|mbox|mathrm|operatorname|begin|end)\s*\{[^{}]*\}|\\[a-zA-Z]+"
)
PROSE = re.compile(r"[A-Za-z]{3,}")


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Return the last match of `pattern` in `text`."""
    match = None
    for match in pattern.finditer(text):  # noqa: B007 - only the last match is needed
        pass
    return match


def only_segment(text: str) -> str | None:
    """Return the content of the formula if the text is nothing else, else None."""
    match = SEGMENT.fullmatch(text.rstrip(" ."))
    return content(match) if match else None


def content(segment: re.Match[str]) -> str:
    """Return the formula inside the delimiters of a match of SEGMENT."""
    return next(group for group in segment.groups() if group is not None).strip()


def has_prose(text: str) -> bool:
    """Return whether words remain after removing LaTeX commands and their arguments."""
    return PROSE.search(_TEXTUAL.sub(" ", text)) is not None
