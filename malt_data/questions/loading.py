r"""Questions: what a row of any source means, and the checks it must pass before a tree is grown.

A gold answer that cannot be graded makes every leaf of its tree wrong, silently. So each row
either becomes a `Question` whose canonical gold grades equal to itself, or a `Refusal` that names
the row and the reason; `Loaded` holds both.

    loaded = load_questions("mine.jsonl", limit=100)
    loaded.questions[0].gold, loaded.counts()    # '1234', {'no gold answer': 2}

Understood without being told: GSM8K's `… #### 1,234`, MATH's `solution` with its last `\boxed{…}`,
CommonsenseQA's `choices`, and lists, dicts or JSON strings of choices.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from malt_data.errors import QuestionsError, SpecError
from malt_data.graders import AUTO, KINDS, Grader, Unusable, extract_answer, require_grader
from malt_data.questions.candidates import (
    Candidate,
    Refusal,
    cluster_of,
    free_kind,
    named,
    read_candidates,
)
from malt_data.questions.fields import FIELDS, Choices, Refused, as_json, choice_letter, storable
from malt_data.questions.source import Source
from malt_data.questions.sources import open_source
from malt_data.schemas.forest import Question
from malt_data.schemas.ids import sampling_key

MAX_GOLD = 500  # characters; the graders read no more of an answer
_REPORTED = 200  # refusals spelt out in a manifest; all of them are counted


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
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    grader: str = AUTO,
    kind: str | None = None,
    fields: Mapping[str, str] | None = None,
) -> Loaded:
    """Return the usable questions of one split of `source`, and the rows refused.

    source: `embedded`, a benchmark's name, a file, a folder of files named by split,
    `reasoning-gym:TASK`, or a Hub dataset `user/name[:config][@revision]`.
    limit: so many questions, drawn by `seed`, in the order of the draw; None: all, in the source's.
    grader: auto, or the kind that every gold must be read as; numeric and math ask a multiple
    choice question without its choices. kind: of the free-form questions where the source names
    none; without it one rule over all of the source decides. fields: a row's own names for
    question, answer, choices.

    Raises QuestionsError where the source cannot be read or holds no usable question, SpecError for
    a grader or a kind that there is none of.
    """
    source, names = str(source), _names(fields or {})
    require_grader(grader)
    if kind is not None and kind not in KINDS:
        raise SpecError(f"There is no kind {kind!r}. One of: {', '.join(KINDS)}.")
    opened = open_source(source, split=split, limit=limit)
    refused: list[Refusal] = []
    columns: list[str] = []
    candidates = list(read_candidates(opened.rows, names, grader, refused, columns))
    free, note = free_kind(opened, kind, candidates, names)
    if limit is not None:
        candidates.sort(key=lambda found: sampling_key(seed, found.question_id))
    with Grader() as judge:
        reader = _Reader(opened, grader, free, judge)
        questions = list(islice(_accepted(candidates, reader, refused), limit))
    notes = (*opened.notes, *([note] if note and grader == AUTO else []))
    loaded = Loaded(questions, refused, opened.source, opened.split, opened.license, notes)
    if not questions:
        raise QuestionsError(_nothing(source, loaded, columns))
    return loaded


def _names(fields: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    if unknown := sorted(set(fields) - set(FIELDS)):
        raise QuestionsError(
            f"fields: unknown key {unknown[0]!r}; it maps {', '.join(FIELDS)} to a row's own names."
        )
    return {**FIELDS, **{key: (name,) for key, name in fields.items()}}


def _accepted(
    candidates: Sequence[Candidate], reader: "_Reader", refused: list[Refusal]
) -> Iterator[Question]:
    """Yield the candidates whose gold can be graded, each question once; note the others."""
    golds: dict[str, str] = {}
    for found in candidates:
        try:
            question = reader.question(found)
            if (earlier := golds.get(question.question_id)) is not None:
                same = earlier == question.gold
                raise Refused("duplicate" if same else "duplicate with another gold answer")
        except Refused as reason:
            refused.append(Refusal(str(reason), named(found.where, found.row)))
        else:
            golds[question.question_id] = question.gold
            yield question


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
    """Turns candidates into questions; raises Refused with the reason where one cannot be."""

    opened: Source
    grader: str
    free: str
    judge: Grader

    def question(self, found: Candidate) -> Question:
        row, choices = found.row, found.choices
        kind = found.kind or self.free
        field, gold = self._gold(found, kind)
        if not storable(gold):
            raise Refused("not valid Unicode (lone surrogate)")
        shown = choices.texts if choices and KINDS[kind].lettered else None
        read = (found.asked, found.listed, field)
        meta = {key: value for key, value in row.items() if key not in read}
        if choices and shown is None:
            meta["choices"] = choices.texts  # asked free-form: its choices are beside the question
        if (raw := row[field]) != gold and str(raw) != gold:
            name = "solution" if isinstance(raw, str) and len(raw) > len(gold) + 20 else "answer"
            meta[field if name in meta else name] = raw
        return self._finish(found, shown, gold, kind, meta)

    def _finish(
        self,
        found: Candidate,
        choices: tuple[str, ...] | None,
        gold: str,
        kind: str,
        meta: dict[str, Any],
    ) -> Question:
        source, split = self.opened.source, self.opened.split
        own, cluster = meta.get("source"), cluster_of(meta)
        if self.opened.lone and isinstance(own, str) and own.strip() and storable(own):
            source = own
        # What a column says need not stand in meta too, nor a null of a free-form row.
        columns: dict[str, object] = {"question_id": found.question_id, "source": source}
        columns |= {"split": split, "kind": kind, "choices": None, "cluster": cluster}
        meta = {k: v for k, v in meta.items() if k not in columns or v != columns[k]}
        return Question(
            found.question_id, source, split, found.text, choices, gold, kind, cluster,
            as_json(_unfold(meta)),
        )  # fmt: skip

    def _gold(self, found: Candidate, kind: str) -> tuple[str, str]:
        """Return the first field that states a gradable gold, and that gold."""
        refused: Refused | None = None
        for field, gold in found.golds:
            try:
                return field, self._canonical(gold, found.choices, kind)
            except Refused as reason:
                refused = refused or reason
        raise refused or Refused("no gold answer")

    def _canonical(self, gold: str, choices: Choices | None, kind: str) -> str:
        form = KINDS[kind]
        if choices is None and form.lettered:
            raise Refused("no choices")
        if choices is not None:
            letter = choice_letter(gold, choices)
            gold = letter if form.lettered else choices.texts[ord(letter) - ord("A")]
        try:
            gold = form.canonical(gold)
        except Unusable as reason:
            raise Refused(str(reason)) from None
        if not self._gradable(gold, kind, choices.texts if choices else None):
            raise Refused("gold not gradable")
        return gold

    def _gradable(self, gold: str, kind: str, choices: Sequence[str] | None) -> bool:
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
