"""Predictions: what each setting answers to each question under each seed, from its completions."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from malt_data.evaluation.parts import CompletionParts, read_manifest, read_questions
from malt_data.evaluation.settings import Setting
from malt_data.evaluation.vote import by_turn, majority, same_as
from malt_data.graders import Grader, graded_as
from malt_data.schemas import layout
from malt_data.schemas.evaluation import PREDICTIONS
from malt_data.storage.parquet import read_table, write_table

_COUNTED = ["setting", "seed", "question_id", "pass", "turn", "role", "answer", "prompt_tokens",
            "completion_tokens", "latency"]  # fmt: skip
_UNIT = ("setting", "seed", "question_id")


def write_predictions(out: Path) -> None:
    """Make predictions.parquet anew from all completions in `out`."""
    write_table(out / layout.PREDICTIONS, predict(out))


def read_predictions(out: Path) -> pa.Table:
    """Return the stored predictions; `same_as` is found anew where an older version wrote them."""
    stored = read_table(out / layout.PREDICTIONS)
    if "same_as" in stored.column_names:
        return stored
    made = {tuple(row[key] for key in _UNIT): row["same_as"] for row in predict(out).to_pylist()}
    units = zip(*(stored[key].to_pylist() for key in _UNIT), strict=True)
    column = pa.array([made.get(unit) for unit in units], PREDICTIONS.field("same_as").type)
    return stored.append_column(PREDICTIONS.field("same_as"), column)


def predict(out: Path) -> pa.Table:
    """Return the predictions that follow from all completions in `out`."""
    manifest = read_manifest(out)
    known = {s["name"]: Setting.model_validate(s) for s in manifest["settings"]}
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
                kind = graded_as(question["kind"], grader_name)
                rows.append(_prediction(known[key[0]], key, turns, question, kind, grader))
    rows.sort(key=lambda row: (row["setting"], row["seed"], row["question_id"]))
    return pa.Table.from_pylist(rows, schema=PREDICTIONS)


def _prediction(
    setting: Setting,
    key: tuple[str, int, str],
    rows: list[dict[str, Any]],
    question: dict[str, Any],
    kind: str,
    grader: Grader,
) -> dict[str, Any]:
    choices = question["choices"]

    def same(one: str, other: str) -> bool:
        return one == other or grader.grade(one, other, kind, choices) == "right"

    turns = by_turn((row["pass"], row["turn"], row["role"], row["answer"]) for row in rows)
    votes = turns[-1]
    answer = majority(votes, same)
    verdict = "wrong" if answer is None else grader.grade(answer, question["gold"], kind, choices)
    first = {row["role"]: row["answer"] for row in rows if row["pass"] == 0}
    return {
        "setting": key[0],
        "seed": key[1],
        "question_id": key[2],
        "answer": answer,
        "correct": None if verdict == "timeout" else verdict == "right",
        "votes": votes,
        "generator_answer": first.get("generator"),
        "verifier_answer": first.get("verifier"),
        "refiner_answer": first.get("refiner"),
        "prompt_tokens": _sum(row["prompt_tokens"] for row in rows),
        "completion_tokens": _sum(row["completion_tokens"] for row in rows),
        "seconds": _seconds(rows, together="turn" if setting.agents > 1 else "pass"),
        "same_as": [same_as(answers, same) for answers in turns],
    }


def _seconds(rows: list[dict[str, Any]], together: str) -> float:
    """Return how long the unit took: passes run side by side, the rounds of a debate in turn."""
    spent: dict[int, list[float]] = {}
    for row in rows:
        spent.setdefault(row[together], []).append(row["latency"] or 0.0)
    if together == "turn":
        return sum(max(seconds) for seconds in spent.values())
    return max(sum(seconds) for seconds in spent.values())


def _sum(counts: Iterable[Any]) -> Any:
    """Return the sum, or None where the engine did not say one of them."""
    known = list(counts)
    return None if None in known else sum(known)
