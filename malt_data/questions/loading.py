r"""Load questions: interpret the rows of any source and check them before a tree is grown.

A gold answer that cannot be graded silently makes every leaf of its tree wrong. So each row
becomes either a `Question` whose canonical gold is graded right against itself, or a `Refusal`
with the row's location and the reason; `Loaded` has both. Where a function of the user's own
grades, golds and kinds are its business: a question may have any kind, and no gold.

    loaded = load_questions("mine.jsonl", limit=100)
    loaded.questions[0].gold, loaded.counts()    # '1234', {'no gold answer': 2}

Recognised without configuration: GSM8K's `… #### 1,234`, the last `\boxed{…}` of MATH's `solution`,
CommonsenseQA's `choices`, and lists, dicts or JSON strings of choices.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from malt_data.errors import QuestionsError
from malt_data.graders import (
    AUTO,
    Grader,
    Unusable,
    extract_answer,
    is_own,
    kind_of,
    require_grader,
    require_kind,
)
from malt_data.questions.candidates import (
    Candidate,
    Refusal,
    cluster_of,
    free_kind,
    read_candidates,
    row_label,
)
from malt_data.questions.fields import (
    FIELDS,
    Choices,
    Refused,
    as_json,
    choice_letter,
    gold_text,
    storable,
)
from malt_data.questions.source import Source
from malt_data.questions.sources import open_source
from malt_data.schemas.forest import Question
from malt_data.schemas.ids import sampling_key

MAX_GOLD = 500  # characters; graders ignore the rest of an answer
_REPORTED = 200  # refused rows listed in a manifest; all are counted


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
        """Return the number of refused rows per reason, most frequent first."""
        return dict(Counter(refusal.reason for refusal in self.refused).most_common())

    def report(self) -> dict[str, Any]:
        """Return the summary stored in a manifest; it lists the first 200 refused rows."""
        refused_rows = [{"reason": r.reason, "where": r.where} for r in self.refused[:_REPORTED]]
        return {
            "source": self.source,
            "split": self.split,
            "license": self.license,
            "questions": len(self.questions),
            "refused": self.counts(),
            "refused_rows": refused_rows,
            "notes": list(self.notes),
        }


def load_questions(
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    grader: str = AUTO,
    kind: str | None = None,
    fields: Mapping[str, str] | None = None,
) -> Loaded:
    """Load the usable questions of one split of `source`, and report the refused rows.

    source: `embedded`, a benchmark name, a file, a folder of files named by split,
    `reasoning-gym:TASK`, or a Hub dataset `user/name[:config][@revision]`.
    limit: draw at most this many questions by `seed`, in the order drawn; None: all of them,
    in the source's order. grader: auto, or the kind to force on every question; numeric and math
    ask a multiple-choice question without its choices. A function of the user's own is not run
    here; it permits kinds of their own and questions without a gold. kind: the kind of free-form
    questions if the source has none; None: infer it from the golds. fields: custom field names for
    question, answer and choices.

    Raises QuestionsError if the source cannot be read or has no usable question, SpecError for an
    unknown grader or kind.
    """
    source, names = str(source), _names(fields or {})
    require_grader(grader)
    own = is_own(grader)
    if kind is not None:
        (kind_of if own else require_kind)(kind)
    opened = open_source(source, split=split, limit=limit)
    refused: list[Refusal] = []
    columns: list[str] = []
    candidates = list(read_candidates(opened.rows, names, grader, refused, columns))
    kind, note = free_kind(opened, kind, candidates, names)
    if limit is not None:
        candidates.sort(key=lambda candidate: sampling_key(seed, candidate.question_id))
    with Grader() as judge:
        converter = _Converter(opened, kind, judge, own)
        questions = list(islice(_accepted(candidates, converter, refused), limit))
    notes = (*opened.notes, *([note] if note and (grader == AUTO or own) else []))
    loaded = Loaded(questions, refused, opened.source, opened.split, opened.license, notes)
    if not questions:
        raise QuestionsError(_none_usable(source, loaded, columns))
    return loaded


def _names(fields: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    if unknown := sorted(set(fields) - set(FIELDS)):
        raise QuestionsError(
            f"fields: unknown key {unknown[0]!r}. Choose from: {', '.join(FIELDS)}."
        )
    return {**FIELDS, **{key: (name,) for key, name in fields.items()}}


def _accepted(
    candidates: Sequence[Candidate], converter: "_Converter", refused: list[Refusal]
) -> Iterator[Question]:
    """Yield each question with a gradable gold once; add the rest to `refused`."""
    golds: dict[str, str] = {}
    for candidate in candidates:
        try:
            question = converter.question(candidate)
            if (earlier := golds.get(question.question_id)) is not None:
                same = earlier == question.gold
                raise Refused("duplicate" if same else "duplicate with another gold answer")
        except Refused as reason:
            refused.append(Refusal(str(reason), row_label(candidate.where, candidate.row)))
        else:
            golds[question.question_id] = question.gold
            yield question


def _none_usable(source: str, loaded: Loaded, columns: Sequence[str]) -> str:
    if not columns:
        return f"{source} (split {loaded.split}) is empty. Pass another source or --split."
    reasons = ", ".join(f"{count} {reason}" for reason, count in loaded.counts().items())
    return (
        f"{source} (split {loaded.split}) has no usable question: {len(loaded.refused)} rows "
        f"refused ({reasons}), first {loaded.refused[0].where}. Its fields are "
        f"{', '.join(columns)}; map them in --config FILE.toml: "
        '[fields] question = "…", answer = "…", choices = "…"'
    )


@dataclass(frozen=True)
class _Converter:
    """Converts candidates to questions; raises Refused with the reason if that fails."""

    source: Source
    free_kind: str
    judge: Grader
    own: bool
    """Whether a function of the user's own will grade."""

    def question(self, candidate: Candidate) -> Question:
        row, choices = candidate.row, candidate.choices
        kind = candidate.kind or self.free_kind
        field, gold = self._gold(candidate, kind)
        if not storable(gold):
            raise Refused("not valid Unicode (lone surrogate)")
        shown = choices.texts if choices and kind_of(kind).lettered else None
        used = (candidate.question_field, candidate.choices_field, field)
        meta = {key: value for key, value in row.items() if key not in used}
        if choices and shown is None:
            meta["choices"] = choices.texts  # asked free-form, without the choices
        if field is not None and (raw := row[field]) != gold and str(raw) != gold:
            name = "solution" if isinstance(raw, str) and len(raw) > len(gold) + 20 else "answer"
            meta[field if name in meta else name] = raw
        question = self._build(candidate, shown, gold, kind, meta)
        if gold and kind_of(kind).judge and not self.own:
            (graded,) = self.judge.judge_sync([(f"Final Answer: {gold}", asdict(question))])
            if graded.verdict != "right":
                raise Refused("gold not gradable")
        return question

    def _build(
        self,
        candidate: Candidate,
        choices: tuple[str, ...] | None,
        gold: str,
        kind: str,
        meta: dict[str, Any],
    ) -> Question:
        source, split = self.source.source, self.source.split
        own, cluster = meta.get("source"), cluster_of(meta)
        if self.source.single_file and isinstance(own, str) and own.strip() and storable(own):
            source = own
        # Drop from meta what a column already stores, and a free-form row's null choices.
        columns: dict[str, object] = {"question_id": candidate.question_id, "source": source}
        columns |= {"split": split, "kind": kind, "choices": None, "cluster": cluster}
        meta = {k: v for k, v in meta.items() if k not in columns or v != columns[k]}
        return Question(
            candidate.question_id, source, split, candidate.text, choices, gold, kind, cluster,
            as_json(_flatten_meta(meta)),
        )  # fmt: skip

    def _gold(self, candidate: Candidate, kind: str) -> tuple[str | None, str]:
        """Return the first field with a gradable gold, and the canonical gold.

        A gold that only a function reads is kept as it is, and may be missing: (None, "").
        """
        refused: Refused | None = None
        field, gold = next(iter(candidate.golds), (None, ""))
        if kind_of(kind).whole:
            return field, gold_text(candidate.row[field]) if field else ""
        for field, gold in candidate.golds:
            try:
                return field, self._canonical(gold, candidate.choices, kind)
            except Refused as reason:
                refused = refused or reason
        if self.own:
            return field, gold
        raise refused or Refused("no gold answer")

    def _canonical(self, gold: str, choices: Choices | None, kind: str) -> str:
        lettered = kind_of(kind).lettered
        if choices is None and lettered:
            raise Refused("no choices")
        if choices is not None:
            letter = choice_letter(gold, choices)
            gold = letter if lettered else choices.texts[ord(letter) - ord("A")]
        try:
            gold = kind_of(kind).canonical(gold)
        except Unusable as reason:
            raise Refused(str(reason)) from None
        if not self._gradable(gold, kind, choices.texts if choices else None):
            raise Refused("gold not gradable")
        return gold

    def _gradable(self, gold: str, kind: str, choices: Sequence[str] | None) -> bool:
        """Return whether a completion that gives this gold as its answer is graded right."""
        if len(gold) > MAX_GOLD:
            return False
        for text in (f"Final Answer: {gold}", f"Final Answer: \\boxed{{{gold}}}"):
            answer = extract_answer(text, kind, choices)
            if self.judge.grade(answer, gold, kind, choices) == "right":
                return True
        return False


def _flatten_meta(meta: dict[str, Any]) -> dict[str, Any]:
    """Merge the JSON in `meta["meta"]`, as stored in questions.parquet, into `meta`."""
    try:
        inner = json.loads(meta["meta"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return meta
    if not isinstance(inner, dict):
        return meta
    return {**inner, **{key: value for key, value in meta.items() if key != "meta"}}
