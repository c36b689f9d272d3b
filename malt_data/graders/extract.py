r"""The function T of MALT (section 4.1): from a completion to the answer it commits to.

One fixed chain, the same for every role, so that a stored answer can be found again in its text:
what follows the last "Final Answer" marker, else the last `\boxed{…}`, else `####`, else "the
answer is", else a last line `Answer: 18`, else a text that is nothing but an answer. A marker
with nothing behind it and a box that is never closed are cut-off answers: None, not whatever
number came earlier. Running text without any of these has no answer either.

    >>> extract_answer("3 + 4 = 7.\n**Final Answer:** $7$.", "numeric")
    '7'
    >>> extract_answer("Let us see. 3 + 4 = 7 and then", "numeric")

Every step is linear in the text: a completion may be a megabyte of `\boxed{`.
"""

import re
from collections.abc import Callable, Sequence
from typing import Literal

from malt_data.graders import choice, numeric

Kind = Literal["numeric", "choice", "math"]

MAX_ANSWER = 2_000  # a longer "answer" is a whole text; no grader reads more than 500 of it
_BOXES_JOINED = 16
_SPECIAL = re.compile(r"<\|[a-zA-Z_]{1,24}\|>|</s>|<end_of_turn>")

_TAG = re.compile(r"</?answer>", re.IGNORECASE)

_OF = r"(?:\s{1,3}(?:to|for|of)\b(?!\s+be\b)[^.:\n]{1,60}?)?"
_COMMENT = r"(?!\s+(?:(?:in)?correct|right|wrong|verified|below|above|given|the same)\b)"
_FINAL = re.compile(
    rf"final\s{{1,3}}answers?{_OF}[ \t*_\"']{{0,8}}"
    rf"(?::|=|(?:is|are|as)\b{_COMMENT}"
    r"|(?=\n|$|\\|\$|[-(\[]?\d))",
    re.IGNORECASE,
)
_THE = re.compile(
    rf"\b(?:the|our|my)\s{{1,3}}(?:[a-z]{{1,12}}\s{{1,3}})?answer{_OF}\s{{0,3}}[*_]{{0,3}}"
    rf"(?:(?:is|are|would\s+be)\b{_COMMENT}|=|:)",
    re.IGNORECASE,
)
_HASHES = re.compile(r"####(?!#)")
_HEADING = re.compile(r"\d{1,3}[.)]\s+[A-Za-z]|[A-Za-z]{2}")
_LABEL = re.compile(r"[*_#>\s]{0,8}(?:(A)|answer|ans\.?)[*_]{0,3}\s{0,3}:[*_]{0,3}", re.IGNORECASE)
_ANSWER_MATH = re.compile(r"answer\s{0,3}:?\s{0,3}(?=\$|\\\(|\\\[)", re.IGNORECASE)

_OPENERS = " \t\n\r*_:#=~"
_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence|then|indeed|simply|now),?\s+)*"
    r"(?:(?:the|our|my)\s+)?(?:(?:correct|right|best|final)\s+){0,2}"
    r"(?:answer|result|solution|choice|option)\s*(?:is\b|:|=)\s*:?\s*"
    r"|(?:(?:thus|therefore|hence|indeed|simply)\b,?\s*)+",
    re.IGNORECASE,
)
_SEGMENT = re.compile(
    r"\$\$(?P<a>[^$]+)\$\$|(?<!\\)\$(?P<b>(?:[^$\\]|\\.)+)\$|\\\[(?P<c>[^\\]*(?:\\(?!\])[^\\]*)*)\\\]"
    r"|\\\((?P<d>[^\\]*(?:\\(?!\))[^\\]*)*)\\\)",
    re.DOTALL,
)
_TEXTUAL = re.compile(
    r"\\(?:text(?:bf|rm|it)?|mbox|mathrm|operatorname|begin|end)\s*\{[^{}]*\}|\\[a-zA-Z]+"
)
_NUMBER_AND_UNIT = re.compile(r"[-+$(]{0,3}[\d.][\d.,]*\s*[a-z]+(?:\s+[a-z]+){0,2}\.?")
_FORMULA_AND_UNIT = re.compile(r"\$[^$]{1,100}\$\s+[a-z]+(?:\s+[a-z]+)?\.?")
_PROSE = re.compile(r"[A-Za-z]{3,}")
_SENTENCE_END = re.compile(r"(?<=[^.\s])(?<![ap]\.m)\.(?=\s+[A-Z\\$]|\s*$)|[;!?](?=\s)")
_STATES = re.compile(r"\b(?:is|are|that|equals|thus|therefore|hence|so)\b|:", re.IGNORECASE)
_CONCLUDES = re.compile(r"\b(?:thus|therefore|hence|conclusion|solution|result)\b", re.IGNORECASE)
_CLOSED = re.compile(r"(?:\s+(?:is|are)\s+(?:our|the|my)\s+(?:answer|solution|result)s?)?[\s.!]*")


def extract_answer(text: str, kind: Kind, choices: Sequence[str] | None = None) -> str | None:
    """Return the answer that a completion gives, close to how it was written, or None (T, §4.1)."""
    text = _spoken(text)
    steps: tuple[Callable[[], tuple[bool, str | None]], ...] = (
        lambda: _after_marker(text, kind),
        lambda: _last_boxes(text),
        lambda: _after_hashes(text),
        lambda: _after_the_answer_is(text, kind),
        lambda: _labelled_last_line(text, kind),
    )
    for step in steps:
        committed, answer = step()
        if committed:
            return _trim(answer)
    if len(text) > MAX_ANSWER and kind != "math":
        return None
    return _trim(_bare(text, kind, choices))


def _spoken(text: str) -> str:
    """Return the completion without its <think> block and whatever follows the end of its turn."""
    _, closed, after = text.rpartition("</think>")
    text = after if closed else text
    if (opened := text.find("<think>")) >= 0:
        text = text[:opened]  # cut off while still thinking
    text = text.lstrip()
    if (special := _SPECIAL.search(text)) and special.start() > 0:
        text = text[: special.start()]
    return _TAG.sub(" ", text).strip()


# --- the chain ---------------------------------------------------------------------------------


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007 - the last match is what is wanted
        pass
    return found


def _after_marker(text: str, kind: Kind) -> tuple[bool, str | None]:
    marker = _last(_FINAL, text)
    if marker is None:
        return False, None
    rest = text[marker.end() :].lstrip(_OPENERS)
    committed, boxed = _last_boxes(rest)
    if committed and (boxed is None or len(_line(rest)) > 80 or "\\boxed" in _paragraph(rest)):
        return True, boxed
    answer = _from_sentence(_paragraph(rest), kind)
    if kind == "numeric" and marker[0][-1] in "sSeE" and _says_no_number(answer or ""):
        return False, None  # "the final answer is positive, because" commits to nothing
    return True, answer


def _says_no_number(sentence: str) -> bool:
    written = re.search(r"[\d$\\]|\bnone\b", sentence, re.IGNORECASE)
    return bool(_PROSE.search(sentence)) and not written and numeric.read(sentence) is None


def _after_hashes(text: str) -> tuple[bool, str | None]:
    marker = _last(_HASHES, text)
    if marker is None:
        return False, None
    rest = _line(text[marker.end() :].strip(" \t*:"))
    if _HEADING.match(rest):
        return False, None  # a fourth-level heading, not GSM8K's marker
    return True, rest


def _after_the_answer_is(text: str, kind: Kind) -> tuple[bool, str | None]:
    marker = _last(_THE, text)
    if marker is None:
        return False, None
    return True, _from_sentence(_paragraph(text[marker.end() :].lstrip(_OPENERS)), kind)


def _labelled_last_line(text: str, kind: Kind) -> tuple[bool, str | None]:
    """Read a last line `A: 18` or `Answer: 18` (how published GSM8K outputs end)."""
    line = text[text.rfind("\n") + 1 :]
    head = text[: max(0, len(text) - len(line))].rstrip()
    label = _LABEL.match(line)
    if label is not None and not (label[1] and kind == "choice"):
        return True, _from_sentence(line[label.end() :].strip(), kind)
    above = _LABEL.fullmatch(head[head.rfind("\n") + 1 :].strip())
    if above is not None and not above[1]:
        return True, _from_sentence(line, kind)
    if kind != "choice" and (answer := _ANSWER_MATH.match(text[-400:].lstrip())):
        return True, _from_sentence(text[-400:].lstrip()[answer.end() :], kind)
    return False, None


def _last_boxes(text: str) -> tuple[bool, str | None]:
    r"""Return the last `\boxed{…}`; boxes that only "and", "or" or a comma parts are one answer."""
    at = _last_box_start(text, len(text))
    if at < 0:
        return False, None
    content, _ = _box_at(text, at, len(text))
    if content is None or not content.strip():
        return True, None
    parts, joiner = [content.strip()], ", "
    for _ in range(_BOXES_JOINED):
        earlier = _last_box_start(text, at)
        if earlier < 0 or at - earlier > MAX_ANSWER:
            break
        content, end = _box_at(text, earlier, at)
        gap = re.sub(r"\\text\s*\{([^{}]*)\}|\\q?quad|[\s$,;&]|\\[,;()\[\]]", r"\1", text[end:at])
        if content is None or gap.strip().lower() not in ("", "and", "or"):
            break
        joiner = " or " if gap.strip().lower() == "or" else joiner
        parts.insert(0, content.strip())
        at = earlier
    return True, joiner.join(parts)


def _last_box_start(text: str, end: int) -> int:
    return max(text.rfind("\\boxed", 0, end), text.rfind("\\fbox", 0, end))


def _box_at(text: str, at: int, end: int) -> tuple[str | None, int]:
    """Return the content of the box at `at` and where it ends; None where it is not closed."""
    start = at + (6 if text.startswith("\\boxed", at) else 5)
    while start < end and text[start] in " \t":
        start += 1
    if text[start : start + 1] != "{":
        token = re.compile(r"[^\s$}.,;]{0,40}").match(text, start, end)
        return (token[0], token.end()) if token and token[0] else (None, start)
    depth = 0
    for brace in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start, end):
        depth += (brace[0] == "{") - (brace[0] == "}")
        if depth == 0 and brace[0] == "}":
            return text[start + 1 : brace.start()], brace.end()
    return None, end


# --- a text that is nothing but an answer ------------------------------------------------------


def _bare(text: str, kind: Kind, choices: Sequence[str] | None) -> str | None:
    if kind == "choice":
        return text if choices and choice.letter_of(text, choices) else None
    inner = _only_segment(text)
    candidate = text if inner is None else inner
    if not re.search(r"\w", candidate):
        return None
    if kind == "numeric":
        plain = len(text) <= 100 and (
            not _has_prose(candidate) or _NUMBER_AND_UNIT.fullmatch(text) is not None
        )
        return candidate if plain and numeric.read(candidate) else None
    if inner is not None or (text and len(text) <= 300 and not _has_prose(text)):
        return candidate
    if _FORMULA_AND_UNIT.fullmatch(text):
        return text
    return _conclusion(text)


def _has_prose(text: str) -> bool:
    """Say whether words remain once LaTeX commands and their texts are taken out."""
    return _PROSE.search(_TEXTUAL.sub(" ", text)) is not None


def _only_segment(text: str) -> str | None:
    found = _SEGMENT.fullmatch(text.rstrip(" ."))
    return _content(found) if found else None


def _content(found: re.Match[str]) -> str:
    return next(group for group in found.groups() if group is not None).strip()


def _conclusion(text: str) -> str | None:
    """Return the last `$…$` of a closing sentence (`Thus $x<2$ is our answer.`).

    A chain of thought that was cut off ends on a formula too, so the sentence must say that it
    concludes; a text of one sentence may just end on "is", and on nothing after the formula.
    """
    tail = text[-600:]
    found = _last(_SEGMENT, tail)
    if found is None or not _CLOSED.fullmatch(tail, found.end()):
        return None
    before = tail[: found.start()]
    sentence = re.split(r"[.!?]\s|\n", before)[-1]
    alone = len(text) <= 200 and sentence == before
    return _content(found) if (_STATES if alone else _CONCLUDES).search(sentence) else None


# --- what follows a marker ---------------------------------------------------------------------


def _line(text: str) -> str:
    return text.split("\n", 1)[0].strip()


def _paragraph(text: str) -> str:
    """Return the first line, or all of the display formula that opens it."""
    for opening, closing in (("\\[", "\\]"), ("$$", "$$"), ("$", "$"), ("\\begin{", "\\end{")):
        if text.startswith(opening):
            end = text.find(closing, len(opening))
            if 0 <= end < MAX_ANSWER and "\n" in text[:end]:
                return text[: end + len(closing)] + _line(text[end + len(closing) :])
            break
    return _line(text)


def _from_sentence(text: str, kind: Kind) -> str | None:
    """Return the answer from the sentence behind a marker, without its wrapping words."""
    text = text[:MAX_ANSWER].replace('\\"', '"').lstrip(_OPENERS).rstrip()
    while lead := _LEAD.match(text):
        text = text[lead.end() :].lstrip(_OPENERS)
    if end := _SENTENCE_END.search(text):
        text = text[: end.start()] if kind != "choice" else text
    if kind == "choice":
        return text
    if (inner := _only_segment(text)) is not None:
        return inner
    if kind == "math" and _has_prose(_SEGMENT.sub(" ", text)):
        return _math_in_prose(text)
    return text


def _math_in_prose(text: str) -> str:
    """Return the formula that a sentence ends on or opens with, else the number after "is"."""
    opening = _SEGMENT.match(text)
    if opening and not re.match(r"\s*(?:and|or|,)\s*[$\\]", text[opening.end() :]):
        return _content(opening)
    if (after := re.search(r".*\b(?:is|are|be|equals)\b:?\s*(.+)", text)) is not None:
        inner = _only_segment(after[1])
        return inner if inner is not None else after[1]
    return text


def _trim(answer: str | None) -> str | None:
    """Return the answer without markdown, outer `$` and a trailing period; None where empty."""
    if answer is None:
        return None
    answer = answer[:MAX_ANSWER].strip().strip('*_`"').strip()
    if answer.endswith("}") and answer.count("{") < answer.count("}"):
        answer = answer[:-1].strip('" ')  # {"final answer": "12"}
    if answer.endswith(")") and answer.count("(") < answer.count(")") and not set("[]") & {*answer}:
        answer = answer[:-1].rstrip()  # (Final Answer: 12); but [0, 12) is an interval
    for opening, closing in (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$")):
        body = answer.rstrip(" .")
        inner = body[len(opening) : -len(closing)]
        if body.startswith(opening) and body.endswith(closing) and inner and "$" not in inner:
            answer = inner.strip()
    if answer.endswith(".") and not answer.endswith((".m.", "\\.", "..")):
        answer = answer[:-1].rstrip()
    return answer.strip("*").strip() or None
