r"""Formulas in running text: `$…$`, `\(…\)`, `\[…\]`, and whether words are left beside them."""

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
    found = None
    for found in pattern.finditer(text):  # noqa: B007 - the last match is what is wanted
        pass
    return found


def only_segment(text: str) -> str | None:
    found = SEGMENT.fullmatch(text.rstrip(" ."))
    return content(found) if found else None


def content(found: re.Match[str]) -> str:
    return next(group for group in found.groups() if group is not None).strip()


def has_prose(text: str) -> bool:
    """Say whether words remain once LaTeX commands and their texts are taken out."""
    return PROSE.search(_TEXTUAL.sub(" ", text)) is not None
