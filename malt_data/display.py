r"""Make untrusted text safe to print: in errors, notes and tables.

Text from a model, a server, a file name or a query may contain escape sequences that recolour or
rewrite the terminal, bidirectional controls that reorder text, or a megabyte of anything.

    >>> escape("a\x1b[31mb\n")
    'a\\x1b[31mb\\n'
"""

import re

LONGEST_WORD = 400
LONGEST = 2_000
"""Characters of a message; longer ones are cut in the middle."""

# C0 and C1 controls, bidirectional controls, line separators, lone surrogates
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


def escape(text: str) -> str:
    r"""Return `text` with control and bidirectional characters escaped (`\x1b`, `\n`)."""
    return _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def clean(text: str) -> str:
    """Escape `text` but keep its line breaks."""
    return "\n".join(map(escape, text.split("\n")))


def clip(text: str) -> str:
    """Shorten long words, then the whole text, in the middle.

    The end is kept because it says what to do next.
    """
    return _cut_middle(_WORD.sub(lambda m: _cut_middle(m[0], LONGEST_WORD), text), LONGEST)


def printable(text: str) -> str:
    """Return `text` as one line that is safe to print: escaped and clipped."""
    return clip(escape(text))


def _cut_middle(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    omitted = f" … ({len(text) - limit:,} characters omitted) … "
    return text[: limit // 2] + omitted + text[-(limit // 2) :]


def fold(text: str, width: int) -> str:
    """Return `text` as one line of at most `width` characters; 0 means no limit."""
    if not width:
        return clean(text)
    line = " ".join(clean(text[: 4 * width]).split())
    return line if len(line) <= width and len(text) <= 4 * width else line[: width - 1] + "…"
