r"""Questions: what a row of any source means, and the checks it must pass before a tree is grown.

A gold answer that cannot be graded makes every leaf of its tree wrong, silently. So each row
either becomes a `Question` whose canonical gold grades equal to itself, or a `Refusal` that names
the row and the reason; `Loaded` holds both.

    >>> loaded = load_questions("mine.jsonl", limit=100)
    >>> loaded.questions[0].gold, loaded.counts()
    ('1234', {'no gold answer': 2})

Understood without being told: GSM8K's `… #### 1,234`, MATH's `solution` with its last `\boxed{…}`,
CommonsenseQA's `choices`, and lists, dicts or JSON strings of choices.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast, get_args

from malt_data.builders.rows import (
    FIELDS,
    Choices,
    Refused,
    as_json,
    canonical,
    choice_letter,
    is_prose,
    read_choices,
    stated,
    storable,
    with_content,
)
from malt_data.builders.sources import Rows, open_rows
from malt_data.display import spelt
from malt_data.errors import QuestionsError
from malt_data.graders import Grader, Kind, extract_answer, kind_of
from malt_data.graders.numeric import parse_number
from malt_data.schemas.ids import question_id

MAX_GOLD = 500  # characters; the graders read no more of an answer
_REPORTED = 200  # refusals spelt out in a manifest; all of them are counted
_IDS = ("id", "unique_id", "question_id", "uid")


@dataclass(frozen=True, slots=True)
class Question:
    """One task with a gold answer, as `questions.parquet` stores it (schemas/forest.py)."""

    question_id: str
    source: str
    split: str
    question: str
    choices: tuple[str, ...] | None
    gold: str
    kind: str
    cluster: str | None
    meta: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that was left out: why, and which (`math/train.jsonl line 7 (algebra/12)`)."""

    reason: str
    where: str


@dataclass(frozen=True)
class Loaded:
    """The questions of one split, and every row that did not become one."""

    questions: list[Question]
    refused: list[Refusal]
    source: str
    split: str
    license: str | None
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Return how many rows were refused, by reason, the most frequent first."""
        return dict(Counter(refusal.reason for refusal in self.refused).most_common())

    def report(self) -> dict[str, Any]:
        """Return the facts a manifest keeps; the first 200 refused rows are named."""
        named = [{"reason": r.reason, "where": r.where} for r in self.refused[:_REPORTED]]
        return {
            "source": self.source,
            "split": self.split,
            "license": self.license,
            "questions": len(self.questions),
            "refused": self.counts(),
            "refused_rows": named,
            "notes": list(self.notes),
        }


def load_questions(
    source: str,
    *,
    split: str | None = None,
    limit: int | None = None,
    grader: str = "auto",
    fields: Mapping[str, str] | None = None,
) -> Loaded:
    """Return the first `limit` usable questions of one split of `source`, and the rows refused.

    source: `embedded`, a benchmark's name, a file, a folder of files named by split,
    `reasoning-gym:TASK`, or a Hub dataset `user/name[:config][@revision]`.
    grader: auto, or the kind that every gold must be read as; numeric and math ask a multiple
    choice question without its choices. fields: a row's own names for question, answer, choices.

    Raises QuestionsError where the source cannot be read or holds no usable question.
    """
    names = _names(fields or {})
    if grader not in ("auto", "numeric", "choice", "math"):
        raise QuestionsError(f"unknown grader {grader!r}; it is auto, numeric, choice or math.")
    opened = open_rows(source, split=split, limit=limit)
    refused: list[Refusal] = []
    columns: list[str] = []
    with Grader() as judge:
        reader = _Reader(opened, grader, names, judge)
        questions = list(islice(_accepted(reader, refused, columns), limit))
    loaded = Loaded(questions, refused, opened.source, opened.split, opened.license, opened.notes)
    if not questions:
        raise QuestionsError(_nothing(source, loaded, columns))
    return loaded


def _names(fields: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    if unknown := sorted(set(fields) - set(FIELDS)):
        raise QuestionsError(
            f"fields: unknown key {unknown[0]!r}; it maps {', '.join(FIELDS)} to a row's own names."
        )
    return {**FIELDS, **{key: (name,) for key, name in fields.items()}}


def _accepted(reader: "_Reader", refused: list[Refusal], columns: list[str]) -> Iterator[Question]:
    """Yield the usable rows as questions; note the others in `refused`, fields in `columns`."""
    golds: dict[str, str] = {}
    for where, row in reader.opened.rows:
        columns[:] = columns or map(str, row)
        try:
            question = reader.question(row)
            if (earlier := golds.get(question.question_id)) is not None:
                same = earlier == question.gold
                raise Refused("duplicate" if same else "duplicate with another gold answer")
        except Refused as reason:
            refused.append(Refusal(str(reason), where + _own_id(row)))
        else:
            golds[question.question_id] = question.gold
            yield question


def _own_id(row: Mapping[str, Any]) -> str:
    found = next((row[name] for name in _IDS if isinstance(row.get(name), str | int)), None)
    return "" if found is None else f" ({spelt(str(found))[:80]})"


def _nothing(source: str, loaded: Loaded, columns: Sequence[str]) -> str:
    if not columns:
        return f"{source} (split {loaded.split}) is empty. Give another source or --split."
    reasons = ", ".join(f"{count} {reason}" for reason, count in loaded.counts().items())
    return (
        f"{source} (split {loaded.split}) holds no usable question: {len(loaded.refused)} rows "
        f"refused ({reasons}), the first is {loaded.refused[0].where}. Its fields are "
        f"{', '.join(columns)}; say which is which in --config FILE.toml: "
        '[fields] question = "…", answer = "…", choices = "…"'
    )


@dataclass(frozen=True)
class _Reader:
    """Turns rows into questions; raises Refused with the reason where one cannot be."""

    opened: Rows
    grader: str
    names: Mapping[str, tuple[str, ...]]
    judge: Grader

    def question(self, row: Mapping[str, Any]) -> Question:
        asked = next(with_content(row, self.names["question"]), None)
        if asked is None:
            raise Refused("no question")
        if not isinstance(row[asked], str):
            raise Refused("question is not text")
        text = row[asked].strip()
        listed = next(with_content(row, self.names["choices"]), None)
        choices = read_choices(row[listed]) if listed else None
        stating, gold, kind = self._gold(row, choices)
        shown = choices.texts if choices and kind == "choice" else None
        if not all(map(storable, (text, gold, *(shown or ())))):
            raise Refused("not valid Unicode (lone surrogate)")
        meta = {key: value for key, value in row.items() if key not in (asked, listed, stating)}
        if choices and shown is None:
            meta["choices"] = choices.texts  # asked free-form: its choices are beside the question
        if (raw := row[stating]) != gold and str(raw) != gold:
            name = "solution" if isinstance(raw, str) and len(raw) > len(gold) + 20 else "answer"
            meta[stating if name in meta else name] = raw
        return self._finish(text, shown, gold, kind, meta)

    def _finish(
        self,
        text: str,
        choices: tuple[str, ...] | None,
        gold: str,
        kind: Kind,
        meta: dict[str, Any],
    ) -> Question:
        source, split = self.opened.source, self.opened.split
        own = meta.get("source")
        if self.opened.lone and isinstance(own, str) and own.strip() and storable(own):
            source = own
        name = question_id(text, choices)
        columns: dict[str, object] = {"question_id": name, "source": source, "split": split}
        columns |= {"kind": kind, "choices": None}  # a null of a free-form row says nothing new
        meta = {k: v for k, v in meta.items() if k not in columns or v != columns[k]}
        return Question(
            name, source, split, text, choices, gold, kind, None, as_json(_unfold(meta))
        )

    def _gold(self, row: Mapping[str, Any], choices: Choices | None) -> tuple[str, str, Kind]:
        """Return the first field that states a gradable gold, that gold, and its kind."""
        refused: Refused | None = None
        for field in with_content(row, self.names["answer"]):
            try:
                gold = stated(row[field], solution=field.lower() == "solution")
                return field, *self._canonical(gold, choices, row.get("kind"))
            except Refused as reason:
                refused = refused or reason
        raise refused or Refused("no gold answer")

    def _canonical(self, gold: str, choices: Choices | None, own: object) -> tuple[str, Kind]:
        kind = self._kind(gold, choices, own)
        if choices is None and kind == "choice":
            raise Refused("no choices")
        if choices is not None:
            letter = choice_letter(gold, choices)
            gold = letter if kind == "choice" else choices.texts[ord(letter) - ord("A")]
        gold = gold if kind == "choice" else canonical(gold, kind)
        if kind == "numeric" and parse_number(gold) is None:
            raise Refused("gold is not a number")
        if kind == "math" and is_prose(gold):
            raise Refused("gold is prose, which no grader can compare")
        if not self._gradable(gold, kind, choices.texts if choices else None):
            raise Refused("gold not gradable")
        return gold, kind

    def _kind(self, gold: str, choices: Choices | None, own: object) -> Kind:
        """Return the kind asked for, else the row's own where it can be, else what gold shows."""
        if self.grader != "auto":
            return cast(Kind, self.grader)
        if own in get_args(Kind) and (own == "choice") == (choices is not None):
            return cast(Kind, own)
        return kind_of(gold, choices.texts if choices else None)

    def _gradable(self, gold: str, kind: Kind, choices: Sequence[str] | None) -> bool:
        """Say whether a completion that states this gold is graded right (the promise of §4.2)."""
        if len(gold) > MAX_GOLD:
            return False
        for text in (f"Final Answer: {gold}", f"Final Answer: \\boxed{{{gold}}}"):
            answer = extract_answer(text, kind, choices)
            if self.judge.grade(answer, gold, kind, choices) == "right":
                return True
        return False


def _unfold(meta: dict[str, Any]) -> dict[str, Any]:
    """Return `meta` with its own field `meta` laid open, as a forest's questions.parquet has it."""
    try:
        inner = json.loads(meta["meta"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return meta
    if not isinstance(inner, dict):
        return meta
    return {**inner, **{key: value for key, value in meta.items() if key != "meta"}}
