r"""Turn a candidate into a question, with a gold answer that grades right against itself.

converter = Converter(source, "numeric", judge, own=False)
converter.question(candidate).gold    # '1234', for a row whose answer is '… #### 1,234'
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from malt_data.graders import Grader, Unusable, extract_answer, kind_of
from malt_data.questions.candidates import Candidate, cluster_of
from malt_data.questions.fields import (
    Choices,
    Refused,
    as_json,
    choice_letter,
    gold_text,
    storable,
)
from malt_data.questions.source import Source
from malt_data.schemas.forest import Question

MAX_GOLD = 500  # characters; graders ignore the rest of an answer


@dataclass(frozen=True)
class Converter:
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
        for name, text in candidate.golds:
            try:
                return name, self._canonical(text, candidate.choices, kind)
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
