r"""The kinds of answer, one record each: how an answer is read, compared, and stored as a gold.

Only this module and the one of the kind (`numeric`, `choice`, `math`) know what its answers look
like; the prompts are in `prompts/prompts.toml`. All other code uses the records.

    >>> KINDS["numeric"].quick("25 apples", "25", ())
    'right'
    >>> KINDS["numeric"].canonical("$1,234")
    '1234'
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from malt_data.errors import SpecError
from malt_data.graders import algebra, choice, math, numeric
from malt_data.graders.formulas import (
    PROSE,
    SEGMENT,
    content,
    has_prose,
    last_match,
    only_segment,
)

Verdict = Literal["right", "wrong", "timeout"]
"""timeout: undecided, which is not the same as wrong."""


class Unusable(Exception):
    """A gold that cannot be compared with answers; the message is the reason."""


@dataclass(frozen=True)
class Kind:
    """One kind of answer; see the module."""

    name: str
    lettered: bool
    """Whether questions have choices and answers are letters."""
    bare: Callable[[str, Sequence[str] | None], str | None]
    """(text, choices) → the answer if the text is nothing but an answer, else None."""
    sentence: Callable[[str], str]
    """The text after a marker → the answer in it."""
    commits: Callable[[str], bool]
    """Whether the text after "the final answer is" contains an answer at all."""
    quick: Callable[[str, str, Sequence[str]], Verdict | None]
    """(answer, gold, choices) → the verdict, without blocking; None: use a worker of `pool.py`."""
    slow: bool
    """Whether verdicts may need a worker and are worth caching."""
    canonical: Callable[[str], str]
    """A gold → its stored form; raises Unusable if no answer could equal it."""
    judge: str | None = None
    """`MODULE:function` that grades an answer, given the question too, in a worker of `pool.py`;
    `quick` then only says whether two passes gave the same answer."""
    whole: bool = False
    """Whether all text after a marker is the answer, as a grid's or a program's lines are, and a
    gold is kept as it is, even if it is empty."""


# --- numeric -----------------------------------------------------------------------------------

_NUMBER_AND_UNIT = re.compile(r"[-+$(]{0,3}[\d.][\d.,]*\s*[a-z]+(?:\s+[a-z]+){0,2}\.?")
_MAX_BARE_NUMBER = 100
"""Maximum length of a text that is nothing but a number."""


def _bare_number(text: str, _: Sequence[str] | None) -> str | None:
    if len(text) > _MAX_BARE_NUMBER:
        return None
    inner = only_segment(text)
    candidate = text if inner is None else inner
    plain = not has_prose(candidate) or _NUMBER_AND_UNIT.fullmatch(text) is not None
    return candidate if re.search(r"\w", candidate) and plain and numeric.read(candidate) else None


def _contains_number(sentence: str) -> bool:
    """Return whether a sentence may contain a number: "positive, because …" does not."""
    has_value = re.search(r"[\d$\\]|\bnone\b", sentence, re.IGNORECASE)
    return not PROSE.search(sentence) or bool(has_value) or numeric.read(sentence) is not None


def _number_sentence(text: str) -> str:
    text = _first_sentence(text)
    inner = only_segment(text)
    return text if inner is None else inner


def _quick_number(answer: str, gold: str, _: Sequence[str]) -> Verdict:
    return _verdict(numeric.equal(answer, gold))


_FORMATTING = re.compile(r"\\?\$|\\!|(?<=\d)\{?,\}?(?=(?:\\!)?\d{3}(?!\d))")


def _canonical_number(gold: str) -> str:
    plain = _FORMATTING.sub("", gold).replace("\N{MINUS SIGN}", "-").strip()
    value = numeric.parse_number(gold)
    gold = plain if value is not None and numeric.parse_number(plain) == value else gold
    if numeric.parse_number(gold) is None:
        raise Unusable("gold is not a number")
    return gold


# --- choice ------------------------------------------------------------------------------------


def _bare_choice(text: str, choices: Sequence[str] | None) -> str | None:
    return text if choices and choice.letter_of(text, choices) else None


def _quick_choice(answer: str, gold: str, choices: Sequence[str]) -> Verdict:
    return _verdict(choice.equal(answer, gold, choices))


# --- math --------------------------------------------------------------------------------------

_FORMULA_AND_UNIT = re.compile(r"\$[^$]{1,100}\$\s+[a-z]+(?:\s+[a-z]+)?\.?")
_STATES = re.compile(r"\b(?:is|are|that|equals|thus|therefore|hence|so)\b|:", re.IGNORECASE)
_CONCLUDES = re.compile(r"\b(?:thus|therefore|hence|conclusion|solution|result)\b", re.IGNORECASE)
_CLOSED = re.compile(r"(?:\s+(?:is|are)\s+(?:our|the|my)\s+(?:answer|solution|result)s?)?[\s.!]*")


_PROSE_WORDS = 5  # allows MATH's "all real numbers"; a longer text has many correct wordings
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))


def _bare_math(text: str, _: Sequence[str] | None) -> str | None:
    inner = only_segment(text)
    candidate = text if inner is None else inner
    if not re.search(r"\w", candidate):
        return None
    if inner is not None or (text and len(text) <= 300 and not has_prose(text)):
        return candidate
    if _FORMULA_AND_UNIT.fullmatch(text):
        return text
    return _conclusion(text)


def _conclusion(text: str) -> str | None:
    """Return the last `$…$` of a closing sentence (`Thus $x<2$ is our answer.`).

    A truncated chain of thought also ends with a formula, so the sentence must state a conclusion.
    In a text of a single sentence, a word like "is" before the formula is enough.
    """
    tail = text[-600:]
    formula = last_match(SEGMENT, tail)
    if formula is None or not _CLOSED.fullmatch(tail, formula.end()):
        return None
    before = tail[: formula.start()]
    sentence = re.split(r"[.!?]\s|\n", before)[-1]
    alone = len(text) <= 200 and sentence == before
    return content(formula) if (_STATES if alone else _CONCLUDES).search(sentence) else None


def _math_sentence(text: str) -> str:
    text = _first_sentence(text)
    if (inner := only_segment(text)) is not None:
        return inner
    return _math_in_prose(text) if has_prose(SEGMENT.sub(" ", text)) else text


def _math_in_prose(text: str) -> str:
    """Return the formula at the start of a sentence, else what follows the last "is"."""
    opening = SEGMENT.match(text)
    if opening and not re.match(r"\s*(?:and|or|,)\s*[$\\]", text[opening.end() :]):
        return content(opening)
    if (after := re.search(r".*\b(?:is|are|be|equals)\b:?\s*(.+)", text)) is not None:
        inner = only_segment(after[1])
        return inner if inner is not None else after[1]
    return text


def _quick_math(answer: str, gold: str, _: Sequence[str]) -> Verdict | None:
    equal = math.quick(answer, gold)
    if equal is not None:
        return _verdict(equal)
    if algebra.too_costly(gold):  # a costly answer may be right, so this is undecided
        return "timeout"
    return "wrong" if algebra.too_costly(answer) else None


def _canonical_math(gold: str) -> str:
    for opening, closing in _DELIMITERS:
        inner = gold[len(opening) : -len(closing)]
        if gold.startswith(opening) and gold.endswith(closing) and inner and "$" not in inner:
            gold = inner.strip()
            break
    if _is_prose(gold):
        raise Unusable("gold is prose, which no grader can compare")
    return gold


def _is_prose(gold: str) -> bool:
    """Return whether a gold is sentences or lines, so that equal answers may differ in wording."""
    if "\\" in gold:
        return False
    return "\n" in gold or len(re.findall(r"[^\W\d_]{2,}", gold)) > _PROSE_WORDS


# --- shared ------------------------------------------------------------------------------------

_SENTENCE_END = re.compile(r"(?<=[^.\s])(?<![ap]\.m)\.(?=\s+[A-Z\\$]|\s*$)|[;!?](?=\s)")


def _first_sentence(text: str) -> str:
    """Return the first sentence of a text."""
    end = _SENTENCE_END.search(text)
    return text[: end.start()] if end else text


def _verdict(equal: bool) -> Verdict:
    return "right" if equal else "wrong"


# --- answers that a function grades ------------------------------------------------------------


def _same_text(answer: str, other: str, _: Sequence[str]) -> Verdict:
    return _verdict(" ".join(answer.split()) == " ".join(other.split()))


_FUNCTION_GRADED: dict[str, Any] = dict(
    lettered=False, sentence=str, commits=lambda _: True, quick=_same_text, slow=False,
    canonical=str.strip, whole=True,
)  # fmt: skip

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "numeric",
            lettered=False,
            bare=_bare_number,
            sentence=_number_sentence,
            commits=_contains_number,
            quick=_quick_number,
            slow=False,
            canonical=_canonical_number,
        ),
        Kind(
            "choice",
            lettered=True,
            bare=_bare_choice,
            sentence=str,
            commits=lambda _: True,
            quick=_quick_choice,
            slow=False,
            canonical=str,
        ),
        Kind(
            "math",
            lettered=False,
            bare=_bare_math,
            sentence=_math_sentence,
            commits=lambda _: True,
            quick=_quick_math,
            slow=True,
            canonical=_canonical_math,
        ),
        Kind(
            "reasoning_gym",
            bare=lambda text, _: None,
            judge="malt_data.graders.gym:score",
            **_FUNCTION_GRADED,
        ),
    )
}


OWN_KIND = re.compile("[a-z][a-z0-9_]{0,31}")
"""The names that a kind of the user's own may have."""


TEXT = "text"
"""Such a kind, to compare answers by their text alone."""


def kind_of(name: str) -> Kind:
    """Return the kind called `name`, which may be one of the user's own: graded by their function.

    The answer to such a question is the text after a marker, else all of the completion. Raises
    SpecError if no kind may have that name.
    """
    if name in KINDS or not OWN_KIND.fullmatch(name):
        return require_kind(name)
    return Kind(name, bare=lambda text, _: text, **_FUNCTION_GRADED)


def require_kind(name: str) -> Kind:
    """Return the kind called `name`; raise SpecError if there is none."""
    if name not in KINDS:
        raise SpecError(f"Unknown kind {name!r}. Choose one of: {', '.join(KINDS)}.")
    return KINDS[name]
