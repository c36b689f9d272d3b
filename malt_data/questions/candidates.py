"""Read candidate questions from rows, before any gold is graded, and infer a source's kind.

A question's kind is never inferred from its own gold, because the prompt would then reveal what
the gold looks like. It comes from the source, from whether the question has choices, or from the
row's own `kind`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from malt_data.display import escape
from malt_data.graders import AUTO, KINDS, is_own, kind_of
from malt_data.graders.kinds import OWN_KIND
from malt_data.graders.numeric import is_number
from malt_data.questions.fields import (
    Choices,
    Refused,
    filled_fields,
    read_choices,
    read_gold,
    storable,
)
from malt_data.questions.files import Row
from malt_data.questions.source import Source
from malt_data.schemas.ids import question_id

Names = Mapping[str, tuple[str, ...]]
"""The field names to look for, per role: question, answer, choices."""

_IDS = ("id", "unique_id", "question_id", "uid")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A skipped row: the reason, and where it is (`math/train.jsonl line 7 (algebra/12)`)."""

    reason: str
    where: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row with a valid question; `golds` are the (field, answer) pairs it offers, in order."""

    where: str
    row: Mapping[str, Any]
    question_field: str
    choices_field: str | None
    text: str
    choices: Choices | None
    kind: str | None
    """The kind set by the row or implied by its choices; None: free-form, the source decides."""
    golds: tuple[tuple[str, str], ...]
    question_id: str


def read_candidates(
    rows: Iterator[Row],
    names: Names,
    grader: str,
    refused: list[Refusal],
    columns: list[str],
) -> Iterator[Candidate]:
    """Yield the rows with a usable question; collect the rest in `refused`, fields in `columns`."""
    for where, row in rows:
        columns[:] = columns or map(str, row)
        try:
            yield _candidate(where, row, names, grader)
        except Refused as reason:
            refused.append(Refusal(str(reason), row_label(where, row)))


def row_label(where: str, row: Mapping[str, Any]) -> str:
    """Return a label for a row: its location, plus its own id if it has one."""
    own_id = next((row[name] for name in _IDS if isinstance(row.get(name), str | int)), None)
    return where if own_id is None else f"{where} ({escape(str(own_id))[:80]})"


def _candidate(where: str, row: Mapping[str, Any], names: Names, grader: str) -> Candidate:
    question_field = next(filled_fields(row, names["question"]), None)
    if question_field is None:
        raise Refused("no question")
    if not isinstance(row[question_field], str):
        raise Refused("question is not text")
    text = row[question_field].strip()
    choices_field = next(filled_fields(row, names["choices"]), None)
    choices = read_choices(row[choices_field]) if choices_field else None
    kind = _own_kind(row, choices, grader)
    shown = choices.texts if choices and kind is not None and kind_of(kind).lettered else None
    scored = kind is not None and kind_of(kind).judge is not None
    if not all(map(storable, (text, *(shown or ())))):
        raise Refused("not valid Unicode (lone surrogate)")
    return Candidate(
        where=where,
        row=row,
        question_field=question_field,
        choices_field=choices_field,
        text=text,
        choices=choices,
        kind=kind,
        golds=_read_golds(row, names["answer"], optional=is_own(grader) or scored),
        question_id=question_id(text, shown),
    )


def _own_kind(row: Mapping[str, Any], choices: Choices | None, grader: str) -> str | None:
    """Return the kind forced by `grader`, else the row's own if valid, else the one implied."""
    if grader != AUTO and not is_own(grader):
        return grader
    own = row.get("kind")
    if is_own(grader) and isinstance(own, str) and own not in KINDS and OWN_KIND.fullmatch(own):
        return own
    if isinstance(own, str) and own in KINDS and KINDS[own].lettered == (choices is not None):
        return own
    return None if choices is None else "choice"


def _read_golds(
    row: Mapping[str, Any], names: Sequence[str], *, optional: bool
) -> tuple[tuple[str, str], ...]:
    """Return the (field, gold) pairs found in the row; raise Refused if there are none.

    optional: a function grades, which may need no gold.
    """
    golds: list[tuple[str, str]] = []
    refused: Refused | None = None
    for name in filled_fields(row, names):
        try:
            golds.append((name, read_gold(row[name], solution=name.lower() == "solution")))
        except Refused as reason:
            refused = refused or reason
    if not golds and not optional:
        raise refused or Refused("no gold answer")
    return tuple(golds)


def free_kind(
    source: Source,
    requested: str | None,
    candidates: Sequence[Candidate],
    names: Names,
) -> tuple[str, str | None]:
    """Return the kind of the source's free-form questions, and a note explaining an inferred one.

    A source without a kind is numeric if every gold in it is a number, else math. All splits are
    considered, regardless of any limit.
    """
    if source.kind is not None:
        return source.kind, None
    if requested is not None:
        return requested, None
    if all(candidate.kind is not None for candidate in candidates):
        return "numeric", None
    others = read_candidates(source.rest, names, AUTO, [], [])
    free_form = [candidate for candidate in (*candidates, *others) if candidate.kind is None]
    first_golds = [gold for candidate in free_form for _, gold in candidate.golds[:1]]
    if not first_golds:
        return "math", f"{source.source}: asked as math, since it has no golds to tell by."
    example = next((gold for gold in first_golds if not is_number(gold)), None)
    if example is None:
        return "numeric", f"{source.source}: asked as numeric, since every gold is a number."
    short = example if len(example) <= 40 else example[:40] + "…"
    return "math", f"{source.source}: asked as math, since not every gold is a number ({short})."


def cluster_of(meta: Mapping[str, Any]) -> str | None:
    """Return the id shared by questions of one template: `cluster`, or GSM-Symbolic's `id`."""
    own = meta.get("cluster")
    if own is None and {"instance", "original_id"} <= meta.keys():
        own = meta.get("id")
    if isinstance(own, bool) or not isinstance(own, str | int) or not str(own).strip():
        return None
    return str(own) if storable(str(own)) else None
