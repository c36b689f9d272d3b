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

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from malt_data.errors import QuestionsError
from malt_data.graders import (
    AUTO,
    Grader,
    is_own,
    kind_of,
    require_grader,
    require_kind,
)
from malt_data.questions.candidates import (
    Candidate,
    Refusal,
    free_kind,
    read_candidates,
    row_label,
)
from malt_data.questions.converting import Converter
from malt_data.questions.fields import FIELDS, Refused
from malt_data.questions.sources import open_source
from malt_data.schemas.forest import Question
from malt_data.schemas.ids import sampling_key

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
    source, names = str(source), field_names(fields or {})
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
        converter = Converter(opened, kind, judge, own)
        questions = list(islice(_accepted(candidates, converter, refused), limit))
    notes = (*opened.notes, *([note] if note and (grader == AUTO or own) else []))
    loaded = Loaded(questions, refused, opened.source, opened.split, opened.license, notes)
    if not questions:
        raise QuestionsError(_none_usable(source, loaded, columns))
    return loaded


def field_names(fields: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the names to look for, with a user's own; raise QuestionsError for an unknown key."""
    if unknown := sorted(set(fields) - set(FIELDS)):
        raise QuestionsError(
            f"fields: unknown key {unknown[0]!r}. Choose from: {', '.join(FIELDS)}."
        )
    return {**FIELDS, **{key: (name,) for key, name in fields.items()}}


def _accepted(
    candidates: Sequence[Candidate], converter: Converter, refused: list[Refusal]
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
