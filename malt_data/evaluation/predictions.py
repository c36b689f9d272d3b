"""Compute predictions, the answer of each setting to each question and seed, from completions."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from malt_data.evaluation.parts import (
    CompletionParts,
    pipeline_of,
    read_manifest,
    read_questions,
)
from malt_data.evaluation.settings import Setting
from malt_data.evaluation.vote import by_turn, majority, same_as
from malt_data.graders import TEXT, Grader, graded_as, is_own
from malt_data.schemas import layout
from malt_data.schemas.evaluation import PREDICTIONS
from malt_data.storage.parquet import read_table, write_table

_COUNTED = ["setting", "seed", "question_id", "pass", "turn", "role", "answer", "correct",
            "prompt_tokens", "completion_tokens", "latency"]  # fmt: skip
_UNIT = ("setting", "seed", "question_id")


def write_predictions(out: Path) -> None:
    """Write predictions.parquet from all completions in `out`."""
    write_table(out / layout.PREDICTIONS, predict(out))


def read_predictions(out: Path) -> pa.Table:
    """Return the stored predictions; compute `same_as` if an older version wrote them."""
    stored = read_table(out / layout.PREDICTIONS)
    if "same_as" in stored.column_names:
        return stored
    by_unit = {tuple(row[k] for k in _UNIT): row["same_as"] for row in predict(out).to_pylist()}
    units = zip(*(stored[key].to_pylist() for key in _UNIT), strict=True)
    column = pa.array([by_unit.get(unit) for unit in units], PREDICTIONS.field("same_as").type)
    return stored.append_column(PREDICTIONS.field("same_as"), column)


def predict(out: Path) -> pa.Table:
    """Compute the predictions from all completions in `out`, as they were graded.

    Only votes are counted anew. Where a function of somebody's own graded, it is not run: answers
    with the same text count as one.
    """
    manifest = read_manifest(out)
    settings = {s["name"]: Setting.model_validate(s) for s in manifest["settings"]}
    judges = pipeline_of(manifest).judges
    grader_name = manifest["spec"]["grader"]
    questions = {row["question_id"]: row for row in read_questions(out).to_pylist()}
    rows = []
    with Grader() as grader:
        for path in CompletionParts(out).paths():
            units: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
            for row in read_table(path, _COUNTED).to_pylist():
                key = row["setting"], row["seed"], row["question_id"]
                units.setdefault(key, []).append(row)
            for key, turns in units.items():
                question = questions[key[2]]
                own = is_own(grader_name)
                kind = TEXT if own else graded_as(question["kind"], grader_name)
                rows.append(
                    _prediction(settings[key[0]], key, turns, judges, question, kind, grader)
                )
    rows.sort(key=lambda row: (row["setting"], row["seed"], row["question_id"]))
    return pa.Table.from_pylist(rows, schema=PREDICTIONS)


def _prediction(
    setting: Setting,
    key: tuple[str, int, str],
    rows: list[dict[str, Any]],
    judges: Collection[str],
    question: dict[str, Any],
    kind: str,
    grader: Grader,
) -> dict[str, Any]:
    choices = question["choices"]

    def same(a: str, b: str) -> bool:
        return a == b or grader.grade(a, b, kind, choices) == "right"

    said = ((row["pass"], row["turn"], row["role"], row["answer"]) for row in rows)
    turns = by_turn(said, judges)
    votes = turns[-1]
    answer = majority(votes, same)
    # The last of each role: one may speak in several turns, and in every round of a debate.
    first = {f"{row['role']}_answer": row["answer"] for row in rows if row["pass"] == 0}
    return {
        "setting": key[0],
        "seed": key[1],
        "question_id": key[2],
        "answer": answer,
        "correct": _correct(rows, judges, answer),
        "votes": votes,
        **{name: first.get(name) for name in PREDICTIONS.names if name.endswith("_answer")},
        "prompt_tokens": _sum(row["prompt_tokens"] for row in rows),
        "completion_tokens": _sum(row["completion_tokens"] for row in rows),
        "seconds": _seconds(rows, debate=setting.agents > 1),
        "same_as": [same_as(answers, same) for answers in turns],
    }


def _correct(
    rows: list[dict[str, Any]], judges: Collection[str], answer: str | None
) -> bool | None:
    """Return the grade of the first pass that ended with the elected answer."""
    graded = (
        (row["pass"], row["turn"], row["role"], None if _is_silent(row, judges) else row)
        for row in rows
    )
    ends = [row for row in by_turn(graded, judges)[-1] if row is not None]
    return next((row["correct"] for row in ends if row["answer"] == answer), False)


def _is_silent(row: dict[str, Any], judges: Collection[str]) -> bool:
    return row["answer"] is None and row["role"] in judges


def _seconds(rows: list[dict[str, Any]], *, debate: bool) -> float:
    """Return how long the unit takes: passes run in parallel, rounds of a debate one by one."""
    latencies: dict[int, list[float]] = {}
    for row in rows:
        group = row["turn" if debate else "pass"]
        latencies.setdefault(group, []).append(row["latency"] or 0.0)
    if debate:
        return sum(max(seconds) for seconds in latencies.values())
    return max(sum(seconds) for seconds in latencies.values())


def _sum(counts: Iterable[Any]) -> Any:
    """Return the sum; None if any count is missing."""
    values = list(counts)
    return None if None in values else sum(values)
