"""Results from completions: predictions, the paper's table, intervals and paired tests.

write_predictions(Path("results"), settings)
rows = table(Path("results"))
rows[0]    # {"setting": "sa", "mean": 0.31, "std": 0.02, "low": 0.27, "high": 0.35, …}
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from malt_data.errors import EvalError
from malt_data.evaluation.play import Turn
from malt_data.evaluation.settings import Setting
from malt_data.evaluation.vote import ballots, majority
from malt_data.forests.parts import write_table
from malt_data.graders import Grader, Kind, kind_of
from malt_data.schemas.evaluation import PREDICTIONS

FILE = "predictions.parquet"
_RESAMPLES = 10_000


def write_predictions(out: Path) -> pl.DataFrame:
    """Make predictions.parquet anew from all completions in `out`; return it."""
    manifest = json.loads((out / "eval.json").read_bytes())
    known = {s["name"]: Setting.model_validate(s) for s in manifest["settings"]}
    grader_name = manifest["spec"]["grader"]
    questions = {
        row["question_id"]: row for row in pq.read_table(out / "questions.parquet").to_pylist()
    }
    rows = []
    with Grader() as grader:
        for path in sorted((out / "completions").glob("part-*.parquet")):
            units: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
            for row in pq.read_table(path).to_pylist():
                key = row["setting"], row["seed"], row["question_id"]
                units.setdefault(key, []).append(row)
            for key, turns in units.items():
                question = questions[key[2]]
                kind = _kind(question, grader_name)
                rows.append(_prediction(known[key[0]], key, turns, question, kind, grader))
    rows.sort(key=lambda row: (row["setting"], row["seed"], row["question_id"]))
    write_table(out / FILE, pa.Table.from_pylist(rows, schema=PREDICTIONS))
    return read_predictions(out)


def read_predictions(out: Path) -> pl.DataFrame:
    """Read predictions.parquet; raise EvalError where there is none."""
    if not (out / FILE).exists():
        raise EvalError(f"{out} holds no evaluation ({FILE} is missing). Make one: malt-data eval")
    frame = pl.from_arrow(pq.read_table(out / FILE))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _kind(question: dict[str, Any], grader: str) -> Kind:
    if grader == "auto":
        return kind_of(question["gold"], question["choices"])
    return grader  # type: ignore[return-value]


def _prediction(
    setting: Setting,
    key: tuple[str, int, str],
    rows: list[dict[str, Any]],
    question: dict[str, Any],
    kind: Kind,
    grader: Grader,
) -> dict[str, Any]:
    choices = question["choices"]

    def same(one: str, other: str) -> bool:
        return one == other or grader.grade(one, other, kind, choices) == "right"

    turns = [_turn(row) for row in rows]
    votes = ballots(setting, turns)
    answer = majority(votes, same)
    verdict = "wrong" if answer is None else grader.grade(answer, question["gold"], kind, choices)
    first = {turn.role: turn.answer for turn in turns if turn.passed == 0}
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
        "prompt_tokens": sum(row["prompt_tokens"] or 0 for row in rows),
        "completion_tokens": sum(row["completion_tokens"] or 0 for row in rows),
    }


def _turn(row: dict[str, Any]) -> Turn:
    return Turn(row["pass"], row["turn"], row["role"], None, (), None, row["answer"], 0.0)  # type: ignore[arg-type]


# --- the table ------------------------------------------------------------------------------------


def table(out: Path) -> list[dict[str, Any]]:
    """Return a row a setting, in the order of eval.json.

    mean, std: of the accuracy over seeds (std with n - 1; 0 for one seed). low, high: a bootstrap
    interval of 95 % over questions. tokens: prompt and completion tokens a question.
    """
    predictions = read_predictions(out)
    manifest = json.loads((out / "eval.json").read_bytes())
    found = []
    for name in [setting["name"] for setting in manifest["settings"]]:
        mine = predictions.filter(pl.col("setting") == name)
        if not mine.height:
            continue
        right = mine.with_columns(pl.col("correct").fill_null(False).cast(pl.Float64))
        by_seed = right.group_by("seed").agg(pl.mean("correct"))["correct"]
        low, high = interval(right.group_by("question_id").agg(pl.mean("correct"))["correct"])
        found.append(
            {
                "setting": name,
                "questions": right["question_id"].n_unique(),
                "seeds": len(by_seed),
                "mean": by_seed.mean(),
                "std": by_seed.std() if len(by_seed) > 1 else 0.0,
                "low": low,
                "high": high,
                "unanswered": mine["answer"].null_count() / mine.height,
                "prompt_tokens": mine["prompt_tokens"].mean(),
                "completion_tokens": mine["completion_tokens"].mean(),
            }
        )
    return found


def interval(values: pl.Series, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of per-question accuracies."""
    data = values.to_numpy()
    source = np.random.default_rng(seed)
    means = data[source.integers(0, len(data), (_RESAMPLES, len(data)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def compare(predictions: pl.DataFrame, one: str, other: str, seed: int = 0) -> dict[str, float]:
    """Return how much better `one` is than `other` on the same questions and seeds, and p.

    difference: of the accuracies. p: two-sided, from flipping the sign of each question's mean
    difference at random (a paired permutation test; a question's seeds stay together).
    """
    right = pl.col("correct").fill_null(False).cast(pl.Float64)
    keys = ["seed", "question_id"]
    sides = [
        predictions.filter(pl.col("setting") == name).select(*keys, right.alias(side))
        for name, side in ((one, "a"), (other, "b"))
    ]
    paired = sides[0].join(sides[1], on=keys)
    by_question = paired.group_by("question_id").agg((pl.col("a") - pl.col("b")).mean())
    differences = by_question.sort("question_id")["a"].to_numpy()
    if not len(differences):
        raise EvalError(f"{one} and {other} have no questions in common.")
    observed = abs(differences.mean())
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (_RESAMPLES, len(differences)))
    beyond = (np.abs((signs * differences).mean(axis=1)) >= observed - 1e-12).sum()
    return {"difference": float(differences.mean()), "p": float((beyond + 1) / (_RESAMPLES + 1))}


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table in the layout of the paper's Table 1: a column a setting."""
    head = "| | " + " | ".join(row["setting"] for row in rows) + " |"
    rule = "|---" * (len(rows) + 1) + "|"
    lines: dict[str, Callable[[dict[str, Any]], str]] = {
        "accuracy, % ± std": lambda r: f"{100 * r['mean']:.2f} ±{100 * r['std']:.2f}",
        "95 % interval": lambda r: f"{100 * r['low']:.1f}-{100 * r['high']:.1f}",
        "no answer, %": lambda r: f"{100 * r['unanswered']:.1f}",
        "tokens a question": lambda r: f"{r['prompt_tokens'] + r['completion_tokens']:.0f}",
    }
    body = [
        f"| {name} | " + " | ".join(cell(r) for r in rows) + " |" for name, cell in lines.items()
    ]
    return "\n".join([head, rule, *body])
