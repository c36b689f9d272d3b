"""Check exported rows against the real tokenizer and chat template before training.

facts = check(Path("forest/exports/refiner_dpo"), load_fit("smollm2-135m"), gold_leaks(forest))
facts["problems"]    # sentences; each would break training
facts["example"]     # the end of a row, as the chat template writes it
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from malt_data.errors import ExportError
from malt_data.exporters.export import read_report
from malt_data.exporters.fit import SIDES, Fit, Measured
from malt_data.exporters.layouts import TRL
from malt_data.exporters.rendering import Rendering, parts_of
from malt_data.exporters.selection import UNFIT
from malt_data.forests.forest import Forest
from malt_data.graders import Grader, extract_answer

_BATCH = 512
_SHORTEST_SOLUTION = 20
_LEAVE_OUT = "Leave them out: --tokenizer NAME."
_THINKING = "thinking = true in --config FILE.toml"
_SENTENCES = {
    "refused_by_template": "{n} rows are rejected by the chat template ({example}). " + _LEAVE_OUT,
    "not_a_prefix": "{n} rows have a prompt that is not a prefix of prompt and completion in the "
    "model's tokens ({example}): the loss would cover the wrong tokens. " + _LEAVE_OUT,
    "unopened": "{n} rows have a prompt that is not a prefix of prompt and completion in the "
    "model's tokens ({example}), because the chat template opens a thought that they do not have. "
    f"Export with it: {_THINKING}; or use a model that does not think.",
    "thinking_dropped": "{n} rows have thinking that the chat template drops ({example}): the "
    f"model would learn to answer without it. Export without {_THINKING}; or use a chat template "
    "that writes reasoning_content.",
    "unwritten": "{n} rows have thinking that the chat template drops ({example}), although it "
    "opens a thought at the end of each prompt: use a chat template that writes reasoning_content.",
    "too_long": "{n} rows have more than {limit} tokens ({example}): most trainers truncate them. "
    + _LEAVE_OUT,
    "identical": "{n} pairs have the same text on both sides ({example}): export without "
    "keep_identical.",
    "leak": "{n} rows have a prompt that reveals the gold answer ({example}): fix the questions.",
    "empty": "{n} rows have an empty text to learn ({example}).",
}


def gold_leaks(forest: Forest) -> set[str]:
    """Return the ids of questions whose text reveals the gold answer.

    A question leaks if the answer extracted from it, as from a completion, is the gold answer, or
    if it contains the full gold solution. Every role's prompt contains the question.
    """
    leaks = set()
    with Grader() as grader:
        for row in forest.questions().collect(engine="streaming").iter_rows(named=True):
            solution = str(json.loads(row["meta"]).get("solution") or "")
            leaked = len(solution) >= _SHORTEST_SOLUTION and solution in row["question"]
            # The prefix keeps a question that is a bare expression ("6 * 7") from being read as
            # its own answer.
            text = f"The question:\n{row['question']}"
            answer = extract_answer(text, row["kind"], row["choices"])
            if not leaked and answer is not None:
                leaked = grader.grade(answer, row["gold"], row["kind"], row["choices"]) == "right"
            if leaked:
                leaks.add(row["question_id"])
    return leaks


def check(folder: str | Path, fit: Fit, leaks: Set[str] = frozenset()) -> dict[str, Any]:
    """Return facts about the rows in `folder`: token lengths, length bias, problems.

    leaks: ids of questions that reveal their gold answer, see `gold_leaks`. In the result,
    `max_length` is the limit of `fit`; rows that do not fit are counted by reason (`UNFIT`).
    `thinking` and `example` say what the chat template makes of the rows, see `Rendering`.
    """
    folder = Path(folder)
    report = read_report(folder)
    if report.layout != TRL:
        raise ExportError(
            f"{folder} is in the layout of {report.layout}. Check an export for TRL: leave out "
            "--layout."
        )
    tally = _Tally(fit, leaks, thinking=report.selection.thinking)
    for rows in _batches(folder):
        tally.add(rows)
    problems = [
        f"{report.config}: "
        + _SENTENCES[name].format(n=count, example=tally.examples[name], limit=fit.limit)
        for name, count in tally.problems.items()
    ]
    if not tally.rows:
        dropped = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
        problems.append(f"{report.config}: no rows (left out: {dropped or 'nothing'}).")
    return {
        "rows": tally.rows,
        "max_length": fit.limit,
        "prompt_tokens": _quantiles(tally.lengths["prompt"]),
        "text_tokens": {
            name: _quantiles(lengths) for name, lengths in tally.lengths.items() if name != "prompt"
        },
        **{reason: tally.unfit[reason] for reason in UNFIT},
        **tally.rendering.facts(),
        "chosen_longer": _share_longer(tally.lengths),
        "problems": problems,
    }


class _Tally:
    """Lengths and problems of the rows added so far."""

    def __init__(self, fit: Fit, leaks: Set[str], *, thinking: bool) -> None:
        self._fit = fit
        self._leaks = leaks
        self._thinking = thinking
        self.rendering = Rendering(fit)
        self.rows = 0
        self.lengths: dict[str, list[int]] = {"prompt": []}
        self.unfit: Counter[str] = Counter()
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
        if not parts_of(row.get("completion", row.get("chosen")))[1].strip():
            yield "empty"
        if measured.reason:
            self.unfit[measured.reason] += 1
            opened = measured.opens_thought and not self._thinking
            yield "unopened" if opened else measured.reason
        if self.rendering.add(row, [side for side in SIDES if side in row]):
            yield "unwritten" if measured.opens_thought else "thinking_dropped"


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
    """Return the share of pairs whose chosen text is longer; ties count half."""
    pairs = list(zip(lengths.get("chosen", ()), lengths.get("rejected", ()), strict=True))
    if not pairs:
        return None
    return sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)
