"""Exported rows on the real chat template: what a trainer would make of them, before the hours.

facts = check(Path("forest/exports/refiner_dpo"), load_fit("smollm2-135m"), gold_leaks(forest))
facts["problems"]    # sentences; any of them would break training
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from malt_data.exporters.export import read_report
from malt_data.exporters.fit import UNFIT, Fit, Measured
from malt_data.forests.forest import Forest
from malt_data.graders import Grader, extract_answer

_BATCH = 512
_SHORTEST_SOLUTION = 20
_WITHOUT = "Export without them: --tokenizer NAME."
_SENTENCES = {
    "refused_by_template": "{n} rows that the chat template refuses ({example}). " + _WITHOUT,
    "not_a_prefix": "{n} rows whose prompt is no prefix of prompt and completion under the chat "
    "template ({example}): the loss would be taken on the wrong tokens. " + _WITHOUT,
    "too_long": "{n} rows of more than {limit} tokens ({example}): most trainers cut them. "
    + _WITHOUT,
    "identical": "{n} pairs with the same text on both sides ({example}): export without "
    "keep_identical.",
    "leak": "{n} rows whose prompt tells the gold answer ({example}): mend the questions.",
    "empty": "{n} rows with an empty text to learn ({example}).",
}


def gold_leaks(forest: Forest) -> set[str]:
    """Return the questions whose own text already gives the gold answer away.

    That is: an answer can be extracted from it as from a completion, and it is the gold, or the
    full gold solution stands in it. Every role's prompt holds the question.
    """
    found = set()
    with Grader() as grader:
        for row in forest.questions().collect(engine="streaming").iter_rows(named=True):
            solution = str(json.loads(row["meta"]).get("solution") or "")
            told = len(solution) >= _SHORTEST_SOLUTION and solution in row["question"]
            # Behind prose, a question that is only an expression ("6 * 7") is no answer to itself.
            asked = f"The question:\n{row['question']}"
            answer = extract_answer(asked, row["kind"], row["choices"])
            if not told and answer is not None:
                told = grader.grade(answer, row["gold"], row["kind"], row["choices"]) == "right"
            if told:
                found.add(row["question_id"])
    return found


def check(folder: str | Path, fit: Fit, leaks: Set[str] = frozenset()) -> dict[str, Any]:
    """Return facts about the rows in `folder`: lengths in tokens, length bias, problems.

    leaks: ids of questions that give their gold away, see `gold_leaks`. `max_length` is the limit
    of `fit`; the rows that do not fit are counted by their reasons (`fit.UNFIT`).
    """
    folder = Path(folder)
    report = read_report(folder)
    seen = _Seen(fit, leaks)
    for rows in _batches(folder):
        seen.add(rows)
    problems = [
        f"{report.config}: "
        + _SENTENCES[name].format(n=number, example=seen.examples[name], limit=fit.limit)
        for name, number in seen.problems.items()
    ]
    if not seen.rows:
        dropped = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
        problems.append(f"{report.config}: no rows at all (left out: {dropped or 'nothing'}).")
    return {
        "rows": seen.rows,
        "max_length": fit.limit,
        "prompt_tokens": _quantiles(seen.lengths["prompt"]),
        "text_tokens": {
            name: _quantiles(found) for name, found in seen.lengths.items() if name != "prompt"
        },
        **{reason: seen.problems[reason] for reason in UNFIT},
        "chosen_longer": _share_longer(seen.lengths),
        "problems": problems,
    }


class _Seen:
    """What was seen of the rows so far."""

    def __init__(self, fit: Fit, leaks: Set[str]) -> None:
        self._fit = fit
        self._leaks = leaks
        self.rows = 0
        self.lengths: dict[str, list[int]] = {"prompt": []}
        self.problems: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows += len(rows)
        for row, measured in zip(rows, self._fit.measure(rows), strict=True):
            name = row.get("node_id") or row["chosen_id"]
            for problem in self._problems(row, measured):
                self.problems[problem] += 1
                self.examples.setdefault(problem, name)
            if measured.texts:
                self.lengths["prompt"].append(measured.prompt)
            for side, tokens in measured.texts.items():
                self.lengths.setdefault(side, []).append(tokens)

    def _problems(self, row: Mapping[str, Any], measured: Measured) -> Iterator[str]:
        if row["question_id"] in self._leaks:
            yield "leak"
        if "chosen" in row and row["chosen"] == row["rejected"]:
            yield "identical"
        if not row.get("completion", row.get("chosen"))[0]["content"].strip():
            yield "empty"
        if measured.reason:
            yield measured.reason


def _batches(folder: Path) -> Iterator[list[dict[str, Any]]]:
    for path in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                yield batch.to_pylist()


def _quantiles(lengths: list[int]) -> dict[str, int]:
    ordered = sorted(lengths)
    if not ordered:
        return {}
    marks = {"median": 0.5, "p95": 0.95, "most": 1.0}
    return {name: ordered[round(mark * (len(ordered) - 1))] for name, mark in marks.items()}


def _share_longer(lengths: dict[str, list[int]]) -> float | None:
    """Return the share of pairs whose chosen text is the longer one; ties count half."""
    pairs = list(zip(lengths.get("chosen", ()), lengths.get("rejected", ()), strict=True))
    if not pairs:
        return None
    return sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)
