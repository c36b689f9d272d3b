"""The questions of imported completions: each once, with its canonical gold and kind.

    asked = ask(roots, spec, grader, names, "runs.jsonl")
    asked.trees["5f5d63edee44763e"]    # the completions of the first turn under that question

Rows of one question are samples of one tree. A question that cannot be graded is left out with its
reason, as in a build; two golds for one question contradict each other, and are refused.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from malt_data.display import escape
from malt_data.errors import ImportsError
from malt_data.graders import AUTO, Grader, is_own
from malt_data.importers.completions import Imported, plain_text
from malt_data.importers.trees import Linked
from malt_data.questions.candidates import (
    Candidate,
    Names,
    Refusal,
    free_kind,
    read_candidates,
    row_label,
)
from malt_data.questions.converting import Converter
from malt_data.questions.fields import Refused, as_json, filled_fields
from malt_data.questions.loading import Loaded
from malt_data.questions.source import Source
from malt_data.schemas.forest import Question
from malt_data.schemas.spec import ImportSpec


@dataclass(frozen=True)
class Asked:
    """The questions and what was refused, the roots of each tree, and what was not kept.

    dropped: fields that differ between the completions of a question, and no column has.
    """

    loaded: Loaded
    trees: Mapping[str, Sequence[Imported]]
    dropped: Sequence[str]


@dataclass
class _Group:
    """Rows that ask the same in the same words: the fields of the first that all of them share."""

    shared: dict[str, Any]
    asked: dict[str, Any]
    roots: list[Imported]


def ask(linked: Linked, spec: ImportSpec, grader: str, names: Names, source: str) -> Asked:
    """Return the questions of the completions of the first turn.

    names: the fields of a question. source: their source, where the rows name none. Raises
    ImportsError if two rows contradict each other.
    """
    differing: Counter[str] = Counter()
    _require_same(linked, names, differing)
    refused: list[Refusal] = []
    found: list[tuple[_Group, Candidate]] = []
    for group in _grouped(linked.roots, names, differing, refused):
        row = {**group.asked, **group.shared}
        rows = iter([(group.roots[0].where, row)])
        found += [(group, each) for each in read_candidates(rows, names, grader, refused, [])]
    opened = Source(source, spec.split, iter(()), single_file=True)
    kind, note = free_kind(opened, spec.kind, [candidate for _, candidate in found], names)
    trees: dict[str, list[Imported]] = {}
    questions: dict[str, Question] = {}
    with Grader() as judge:
        for group, candidate in found:
            split = candidate.row.get("split")
            split = escape(split) if isinstance(split, str) and split.strip() else spec.split
            asked_in = replace(opened, split=split)
            try:
                question = Converter(asked_in, kind, judge, is_own(grader)).question(candidate)
            except Refused as reason:
                refused.append(Refusal(str(reason), row_label(candidate.where, candidate.row)))
                continue
            name = question.question_id
            if (first := questions.get(name)) is not None:
                _require_gold(first, question, trees[name][0], group.roots[0])
                question, left = _merged(first, question)
                differing.update(left - {*group.asked})
            questions[name] = question
            trees.setdefault(name, []).extend(group.roots)
    notes = (note,) if note and (grader == AUTO or is_own(grader)) else ()
    splits = {question.split for question in questions.values()}
    split = splits.pop() if len(splits) == 1 else spec.split
    loaded = Loaded([*questions.values()], refused, source, split, None, notes)
    return Asked(loaded, trees, sorted(differing))


def _asked(row: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Return the fields of a row that ask: its question, its choices, its golds."""
    return {field: row[field] for each in names.values() for field in filled_fields(row, each)}


def _grouped(
    roots: Sequence[Imported], names: Names, differing: Counter[str], refused: list[Refusal]
) -> list[_Group]:
    groups: dict[str, _Group] = {}
    for root in roots:
        asked = _asked(root.row, names)
        if next(filled_fields(root.row, names["question"]), None) is None:
            raise ImportsError(
                f"{root.where} has neither a question nor a parent. A completion of the first turn "
                "needs the question in its row (our own nodes: FROM nodes JOIN questions USING "
                "(question_id))."
            )
        for name, value in asked.items():
            if isinstance(value, str):
                plain_text(root.where, name, value)
        others = {name: value for name, value in root.row.items() if name not in asked}
        try:
            key = as_json(asked)
        except Refused as reason:
            refused.append(Refusal(str(reason), root.where))
            continue
        if (group := groups.get(key)) is None:
            groups[key] = _Group(others, asked, [root])
            continue
        group.roots.append(root)
        kept = {n: v for n, v in group.shared.items() if n in others and others[n] == v}
        differing.update({*group.shared, *others} - {*kept})
        group.shared = kept
    return [*groups.values()]


def _require_same(linked: Linked, names: Names, differing: Counter[str]) -> None:
    """Raise ImportsError if a row under another one asks something else.

    Count in `differing` the fields that the first row of its tree does not have, or not so.
    """
    above = {(root.file, root.key): root for root in linked.roots}
    for turn in linked.turns[1:]:
        for each in turn:
            root = above[each.file, str(each.parent)]
            above[each.file, each.key] = root
            asks = next(filled_fields(each.row, names["question"]), None) is not None
            asked = _asked(each.row, names) if asks else {}
            others = {name: value for name, value in each.row.items() if name not in asked}
            differing.update(n for n, v in others.items() if n not in root.row or root.row[n] != v)
            if asked and asked != _asked(root.row, names):
                raise ImportsError(
                    f"{each.where} has another question or gold answer than {root.where}, the "
                    "first completion of its tree. One of them is wrong."
                )


def _require_gold(first: Question, other: Question, root: Imported, another: Imported) -> None:
    if (first.gold, first.kind) != (other.gold, other.kind):
        raise ImportsError(
            f"{another.where} has the gold answer {other.gold!r} ({other.kind}), but {root.where} "
            f"has {first.gold!r} ({first.kind}) for the same question. One of them is wrong."
        )


def _merged(first: Question, other: Question) -> tuple[Question, set[str]]:
    """Return the question with what both know of it, and the names of the rest."""
    one, two = json.loads(first.meta), json.loads(other.meta)
    shared = {name: value for name, value in one.items() if name in two and two[name] == value}
    return replace(first, meta=as_json(shared)), {*one, *two} - {*shared}
