r"""Multiple choice: an answer is one letter of the question's own choices, or the text of one.

Taking the first or last capital letter is a common shortcut but often wrong: "Answer" starts with
an A, and "It is not A" ends with one. So the whole answer must identify one choice.

    >>> letter_of("(D) ground", ["sky", "ice", "water", "ground"])
    'D'
    >>> letter_of("D: ice", ["sky", "ice", "water", "ground"])  # the letter contradicts its text
"""

import re
from collections.abc import Sequence

MAX_CHARS = 500
MAX_CHOICES = 26
_MARKUP = re.compile(
    r"\\(?:boxed|fbox|text(?:bf|rm|it)?|mbox|mathrm|mathbf)\s*\{([^{}]*)\}|\*\*|__|`|\\?\$|[\"“”]"
)
_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence),?\s+)?(?:the|our|my)?\s*"
    r"(?:(?:correct|right|best|final|most likely)\s+)*"
    r"(?:answer|choice|option|letter)(?:\s+is\s*:?|\s*:|\s)\s*"
    r"(?:(?:the\s+)?(?:choice|option|letter)\s+)?(?=\S)",
    re.IGNORECASE,
)
_LETTER = re.compile(r"(?:\(\s*([A-Za-z])\s*\)|\[([A-Za-z])\]|([A-Za-z])(?![A-Za-z0-9'’]))\s*")
_REASON = re.compile(r"\(|because\b|since\b|is\s+(?:the\s+)?(?:correct|right|best)\b")
_TRAILING = re.compile(r"(.+?)\s*\(\s*([A-Z])\s*\)")
_NEGATED = re.compile(r"\b(?:not|rather than|instead of|over)\s+\(?[A-Z]\b\)?")
_CLAUSE = re.compile(r"[.,;\n(]|\s+-+\s+")


def letter_of(answer: str, choices: Sequence[str]) -> str | None:
    """Return the letter (`A`, `B`, …) of the only choice in `answer`, None for none or several."""
    if len(answer) > MAX_CHARS or not 0 < len(choices) <= MAX_CHOICES:
        return None
    text = _MARKUP.sub(lambda m: m[1] or "", answer).strip(" \n\t.,;:!?")
    text = _LEAD.sub("", text, count=1) if _LEAD.match(text) else text
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices)]
    if len(text) == 1 and text.upper() in letters:
        return text.upper()
    by_text = _letter_of_text(text, choices)
    if by_text is not None:
        return by_text
    if (trailing := _TRAILING.fullmatch(text)) and trailing[2] in letters:
        return trailing[2] if _letter_of_text(trailing[1], choices) == trailing[2] else None
    return _letter_first(text, letters, choices)


def equal(answer: str, gold: str, choices: Sequence[str]) -> bool:
    """Return whether `answer` and `gold` identify the same choice."""
    letter = letter_of(answer, choices)
    return letter is not None and letter == letter_of(gold, choices)


def _letter_first(text: str, letters: str, choices: Sequence[str]) -> str | None:
    """Read `D`, `(D) ground`, `D: ground`, `D, not A`; return None if another choice is named."""
    match = _LETTER.match(text)
    if match is None:
        return None
    letter = match[1] or match[2] or match[3]
    rest = text[match.end() :]
    delimited = match[3] is None or rest[:1] in (")", ".", ":", ",", ";", "-", "–", "—", "=")
    if letter.upper() not in letters or (letter.islower() and not delimited):
        return None
    letter = letter.upper()
    rest = rest.lstrip(").:,;-–—= \n")
    if not rest or _letter_of_text(rest, choices) == letter:
        return letter
    if not delimited and not _NEGATED.match(rest) and not _REASON.match(rest):
        return None  # "A place such as the ground" starts with an article, not a letter
    others = {m for m in re.findall(r"\b[A-Z]\b", _NEGATED.sub(" ", rest)) if m in letters}
    named = _letter_of_text(_CLAUSE.split(rest, maxsplit=1)[0], choices)
    if others - {letter, "I"} or ("A" in others and letter != "A") or named not in (None, letter):
        return None
    return letter


def _letter_of_text(text: str, choices: Sequence[str]) -> str | None:
    """Return the letter of the only choice with this text, ignoring case and punctuation."""
    normalised = _normalise(text)
    matches = [index for index, choice in enumerate(choices) if _normalise(choice) == normalised]
    return chr(ord("A") + matches[0]) if normalised and len(matches) == 1 else None


def _normalise(text: str) -> str:
    letters = "".join(character for character in text.casefold() if character.isalnum())
    return letters or text.strip()
