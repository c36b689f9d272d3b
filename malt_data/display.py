r"""What others wrote, made fit for a terminal: data in an error, a note, a table.

A model, a server, a file's name or a query may hold escape sequences that recolour or rewrite the
terminal, bidirectional controls that turn text around, or a megabyte of anything.

    >>> escape("a\x1b[31mb\n")
    'a\\x1b[31mb\\n'
"""

import re

LONGEST_WORD = 400
LONGEST = 2_000
"""Characters of a message; what stands in the middle is left out first."""

# C0 and C1 controls, bidirectional controls, line separators, halves of a surrogate pair
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


def escape(text: str) -> str:
    r"""Return `text` with control and bidirectional characters escaped (`\x1b`, `\n`)."""
    return _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def clean(text: str) -> str:
    """Return `text` as `escape` does, its line breaks kept: of a completion, a tree."""
    return "\n".join(map(escape, text.split("\n")))


def clip(text: str) -> str:
    """Return `text` with long words, then the whole, cut in the middle.

    Its end stays: that is where a message says what to do.
    """
    return _middle(_WORD.sub(lambda m: _middle(m[0], LONGEST_WORD), text), LONGEST)


def printable(text: str) -> str:
    """Return `text` on one line that is fit for a terminal: `escape` and `clip`."""
    return clip(escape(text))


def _middle(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    left_out = f" … ({len(text) - most:,} characters left out) … "
    return text[: most // 2] + left_out + text[-(most // 2) :]


def fold(text: str, width: int) -> str:
    """Return `text` on one line of at most `width` characters; 0 keeps it whole."""
    if not width:
        return clean(text)
    line = " ".join(clean(text[: 4 * width]).split())
    return line if len(line) <= width and len(text) <= 4 * width else line[: width - 1] + "…"
