"""Rows read as far as their questions go, before any gold is graded, and the kind of a source.

The kind of a question never comes from its own gold: the prompt would tell the model what the gold
looks like. It comes from the source, from the question's own form (it has choices), or from the
row's own `kind`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from malt_data.display import escape
from malt_data.graders import AUTO, KINDS
from malt_data.graders.numeric import is_number
from malt_data.questions.fields import (
    Choices,
    Refused,
    read_choices,
    stated,
    storable,
    with_content,
)
from malt_data.questions.files import Row
from malt_data.questions.source import Source
from malt_data.schemas.ids import question_id

Names = Mapping[str, tuple[str, ...]]
"""What a row may call its question, answer and choices."""

_IDS = ("id", "unique_id", "question_id", "uid")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that was left out: why, and which (`math/train.jsonl line 7 (algebra/12)`)."""

    reason: str
    where: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row read as far as its question goes; `golds` are what its fields state, in order."""

    where: str
    row: Mapping[str, Any]
    asked: str
    listed: str | None
    text: str
    choices: Choices | None
    kind: str | None
    """What the row itself or its choices say; None: free-form, the source decides."""
    golds: tuple[tuple[str, str], ...]
    question_id: str


def read_candidates(
    rows: Iterator[Row],
    names: Names,
    grader: str,
    refused: list[Refusal],
    columns: list[str],
) -> Iterator[Candidate]:
    """Yield the rows that ask something; note the others in `refused`, fields in `columns`."""
    for where, row in rows:
        columns[:] = columns or map(str, row)
        try:
            yield _candidate(where, row, names, grader)
        except Refused as reason:
            refused.append(Refusal(str(reason), named(where, row)))


def named(where: str, row: Mapping[str, Any]) -> str:
    """Return the words for a row: where it stands, and its own id if it has one."""
    found = next((row[name] for name in _IDS if isinstance(row.get(name), str | int)), None)
    return where if found is None else f"{where} ({escape(str(found))[:80]})"


def _candidate(where: str, row: Mapping[str, Any], names: Names, grader: str) -> Candidate:
    asked = next(with_content(row, names["question"]), None)
    if asked is None:
        raise Refused("no question")
    if not isinstance(row[asked], str):
        raise Refused("question is not text")
    text = row[asked].strip()
    listed = next(with_content(row, names["choices"]), None)
    choices = read_choices(row[listed]) if listed else None
    kind = _own_kind(row, choices, grader)
    shown = choices.texts if choices and kind is not None and KINDS[kind].lettered else None
    if not all(map(storable, (text, *(shown or ())))):
        raise Refused("not valid Unicode (lone surrogate)")
    golds = _stated_golds(row, names["answer"])
    return Candidate(
        where, row, asked, listed, text, choices, kind, golds, question_id(text, shown)
    )


def _own_kind(row: Mapping[str, Any], choices: Choices | None, grader: str) -> str | None:
    """Return the kind asked for, else the row's own where it can be, else what its form says."""
    if grader != AUTO:
        return grader
    own = row.get("kind")
    if isinstance(own, str) and own in KINDS and KINDS[own].lettered == (choices is not None):
        return own
    return None if choices is None else "choice"


def _stated_golds(row: Mapping[str, Any], names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return (field, gold) of the fields that state one; raise Refused where none does."""
    golds: list[tuple[str, str]] = []
    refused: Refused | None = None
    for name in with_content(row, names):
        try:
            golds.append((name, stated(row[name], solution=name.lower() == "solution")))
        except Refused as reason:
            refused = refused or reason
    if not golds:
        raise refused or Refused("no gold answer")
    return tuple(golds)


def free_kind(
    opened: Source,
    asked: str | None,
    candidates: Sequence[Candidate],
    names: Names,
) -> tuple[str, str | None]:
    """Return the kind of the source's free-form questions, and what to tell about the choice.

    It belongs to the source: were it taken from a question's own gold, the prompt would say what
    the gold looks like. A source that names none is numeric where every gold in it (in all its
    splits, whatever the limit) is a number, else math.
    """
    if opened.kind is not None:
        return opened.kind, None
    if asked is not None:
        return asked, None
    others = read_candidates(opened.rest, names, AUTO, [], [])
    free = [found for found in (*candidates, *others) if found.kind is None]
    if not free:
        return "numeric", None
    odd = next((gold for found in free for _, gold in found.golds[:1] if not is_number(gold)), None)
    if odd is None:
        return "numeric", f"{opened.source}: asked as numeric, since every gold is a number."
    short = odd if len(odd) <= 40 else odd[:40] + "…"
    return "math", f"{opened.source}: asked as math, since not every gold is a number ({short})."


def cluster_of(meta: Mapping[str, Any]) -> str | None:
    """Return what questions of one template share: a row's own `cluster`, or GSM-Symbolic's id."""
    own = meta.get("cluster")
    if own is None and {"instance", "original_id"} <= meta.keys():
        own = meta.get("id")
    if isinstance(own, bool) or not isinstance(own, str | int) or not str(own).strip():
        return None
    return str(own) if storable(str(own)) else None
