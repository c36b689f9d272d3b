r"""Extract the answer that a completion commits to: the function T of MALT (section 4.1).

The same rules apply to every role, in this order: the text after the last "Final Answer" marker,
the last `\boxed{…}`, the text after `####` or "the answer is", a last line `Answer: 18`, or a text
that is nothing but an answer. A marker with nothing after it or an unclosed box is a truncated
answer: the result is None, not some earlier number. Running text without any of these is None too.

    >>> extract_answer("3 + 4 = 7.\n**Final Answer:** $7$.", "numeric")
    '7'
    >>> extract_answer("Let us see. 3 + 4 = 7 and then", "numeric")

Every step is linear in the text: a completion may be a megabyte of `\boxed{`.
"""

import re
from collections.abc import Callable, Sequence

from malt_data.graders.formulas import last_match
from malt_data.graders.kinds import Kind, kind_of

MAX_ANSWER = 2_000  # anything longer is not an answer; graders read at most 500
MAX_WHOLE = 10_000  # the same for grids and programs
_FENCE = re.compile(r"```\w*\n(.*?)\n?```", re.DOTALL)
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
_THE_ANSWER_IS = re.compile(
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


def extract_answer(text: str, kind: str, choices: Sequence[str] | None = None) -> str | None:
    """Return the answer of a completion, close to how it was written, or None (T, §4.1).

    kind: one of KINDS, or one of the user's own.
    """
    text, rules = _final_turn(text), kind_of(kind)
    if rules.whole:
        return _whole(text, rules)
    steps: tuple[Callable[[], tuple[bool, str | None]], ...] = (
        lambda: _after_marker(text, rules),
        lambda: _last_boxes(text),
        lambda: _after_hashes(text),
        lambda: _after_the_answer_is(text, rules),
        lambda: _labelled_last_line(text, rules),
    )
    for step in steps:
        committed, answer = step()
        if committed:
            return _trim(answer)
    return _trim(rules.bare(text, choices))


def _final_turn(text: str) -> str:
    """Return the completion without <think> blocks and anything after the end of its turn."""
    _, closed, after = text.rpartition("</think>")
    text = after if closed else text
    if (opened := text.find("<think>")) >= 0:
        text = text[:opened]  # truncated while thinking
    text = text.lstrip()
    if (special := _SPECIAL.search(text)) and special.start() > 0:
        text = text[: special.start()]
    return _TAG.sub(" ", text).strip()


def _whole(text: str, kind: Kind) -> str | None:
    """Return all text after the last marker, without bold, box or fence, else the bare text."""
    marker = last_match(_FINAL, text)
    rest = text if marker is None else text[marker.end() :].strip()
    if marker is not None and text[: marker.start()].endswith("**"):
        rest = rest.replace("**", "", 1).strip()  # **Final Answer:** 7, or **Final Answer: 7**
    committed, answer = _last_boxes(rest)
    if not committed:
        answer = kind.bare(rest, None) if marker is None else rest
    answer = (answer or "").strip()
    if fence := _FENCE.match(answer):
        answer = fence[1]
    return answer[:MAX_WHOLE].rstrip() or None


# --- the rules ---------------------------------------------------------------------------------


def _after_marker(text: str, kind: Kind) -> tuple[bool, str | None]:
    marker = last_match(_FINAL, text)
    if marker is None:
        return False, None
    rest = text[marker.end() :].lstrip(_OPENERS)
    committed, boxed = _last_boxes(rest)
    if committed and (boxed is None or len(_line(rest)) > 80 or "\\boxed" in _paragraph(rest)):
        return True, boxed
    answer = _from_sentence(_paragraph(rest), kind)
    if marker[0][-1] in "sSeE" and not kind.commits(answer or ""):
        return False, None  # "the final answer is positive, because" is not an answer
    return True, answer


def _after_hashes(text: str) -> tuple[bool, str | None]:
    marker = last_match(_HASHES, text)
    if marker is None:
        return False, None
    rest = _line(text[marker.end() :].strip(" \t*:"))
    if _HEADING.match(rest):
        return False, None  # a Markdown heading, not GSM8K's marker
    return True, rest


def _after_the_answer_is(text: str, kind: Kind) -> tuple[bool, str | None]:
    marker = last_match(_THE_ANSWER_IS, text)
    if marker is None:
        return False, None
    return True, _from_sentence(_paragraph(text[marker.end() :].lstrip(_OPENERS)), kind)


def _labelled_last_line(text: str, kind: Kind) -> tuple[bool, str | None]:
    """Read a last line `A: 18` or `Answer: 18`, common in published GSM8K outputs."""
    line = text[text.rfind("\n") + 1 :]
    head = text[: max(0, len(text) - len(line))].rstrip()
    label = _LABEL.match(line)
    if label is not None and not (label[1] and kind.lettered):
        return True, _from_sentence(line[label.end() :].strip(), kind)
    above = _LABEL.fullmatch(head[head.rfind("\n") + 1 :].strip())
    if above is not None and not above[1]:
        return True, _from_sentence(line, kind)
    if not kind.lettered and (answer := _ANSWER_MATH.match(text[-400:].lstrip())):
        return True, _from_sentence(text[-400:].lstrip()[answer.end() :], kind)
    return False, None


def _last_boxes(text: str) -> tuple[bool, str | None]:
    r"""Return the last `\boxed{…}`, joined with boxes separated by only "and", "or" or a comma."""
    start = _last_box_start(text, len(text))
    if start < 0:
        return False, None
    content, _ = _box_at(text, start, len(text))
    if content is None or not content.strip():
        return True, None
    parts, joiner = [content.strip()], ", "
    for _ in range(_BOXES_JOINED):
        earlier = _last_box_start(text, start)
        if earlier < 0 or start - earlier > MAX_ANSWER:
            break
        content, end = _box_at(text, earlier, start)
        gap = re.sub(
            r"\\text\s*\{([^{}]*)\}|\\q?quad|[\s$,;&]|\\[,;()\[\]]", r"\1", text[end:start]
        )
        if content is None or gap.strip().lower() not in ("", "and", "or"):
            break
        joiner = " or " if gap.strip().lower() == "or" else joiner
        parts.insert(0, content.strip())
        start = earlier
    return True, joiner.join(parts)


def _last_box_start(text: str, end: int) -> int:
    return max(text.rfind("\\boxed", 0, end), text.rfind("\\fbox", 0, end))


def _box_at(text: str, box: int, end: int) -> tuple[str | None, int]:
    """Return the content and the end of the box that starts at `box`; None if it is not closed."""
    start = box + (6 if text.startswith("\\boxed", box) else 5)
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


# --- text after a marker -----------------------------------------------------------------------


def _line(text: str) -> str:
    return text.split("\n", 1)[0].strip()


def _paragraph(text: str) -> str:
    """Return the first line, or the whole display formula if the text starts with one."""
    for opening, closing in (("\\[", "\\]"), ("$$", "$$"), ("$", "$"), ("\\begin{", "\\end{")):
        if text.startswith(opening):
            end = text.find(closing, len(opening))
            if 0 <= end < MAX_ANSWER and "\n" in text[:end]:
                return text[: end + len(closing)] + _line(text[end + len(closing) :])
            break
    return _line(text)


def _from_sentence(text: str, kind: Kind) -> str | None:
    """Return the answer in the sentence after a marker, without lead-in words."""
    text = text[:MAX_ANSWER].replace('\\"', '"').lstrip(_OPENERS).rstrip()
    while lead := _LEAD.match(text):
        text = text[lead.end() :].lstrip(_OPENERS)
    return kind.sentence(text)


def _trim(answer: str | None) -> str | None:
    """Return the answer without markdown, outer `$` and a trailing period; None if empty."""
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
