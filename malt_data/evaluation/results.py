"""Results: the folder of an evaluation, its tables, predictions from completions, and SQL.

results = open_results("results")
results.sql("FROM accuracy")             # polars DataFrame; also turns, turn_accuracy, flips, …
table(results)[0]                        # {"setting": "sa", "mean": 0.31, "std": 0.02, …}
compare(results.predictions(), "malt+mv", "star-ma+mv")    # {"behind": 0.08, "p": 0.002}
"""

import json
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from malt_data.errors import EvalError
from malt_data.evaluation.settings import Setting
from malt_data.evaluation.tables import compare, table
from malt_data.evaluation.vote import by_turn, majority, same_as
from malt_data.forests.parts import REPLACES, current, read_footer, read_table, write_table
from malt_data.graders import Grader, Kind, graded_as
from malt_data.schemas.evaluation import COMPLETIONS, PREDICTIONS, STAMP
from malt_data.schemas.versions import upgrade
from malt_data.storage.documents import read_json
from malt_data.storage.files import settle

MANIFEST = "eval.json"
PARTS = "completions"
QUESTIONS = "questions.parquet"
FILE = "predictions.parquet"
_COUNTED = ["setting", "seed", "question_id", "pass", "turn", "role", "answer", "prompt_tokens",
            "completion_tokens", "latency"]  # fmt: skip
_UNIT = ("setting", "seed", "question_id")
_PART_BYTES = 16 * 2**20

__all__ = ["Results", "compare", "open_results", "table"]


class Results:
    """A folder that `malt-data eval` wrote: `manifest`, its tables, and SQL over them."""

    views: tuple[str, ...] = (
        "accuracy", "turns", "ballots", "turn_accuracy", "flips", "votes", "results/verdicts",
        "cost",
    )  # fmt: skip

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    @property
    def settings(self) -> list[str]:
        """Names of the settings, in the order in which they were asked for."""
        return [setting["name"] for setting in self.manifest["settings"]]

    def tables(self) -> dict[str, ds.Dataset]:
        """Return what SQL stands on."""
        return {
            "questions": ds.dataset(read_questions(self.folder)),
            "completions": ds.dataset(parts(self.folder), schema=COMPLETIONS),
            "predictions": ds.dataset(_read_predictions(self.folder)),
        }

    def predictions(self) -> pl.DataFrame:
        """Return one row a setting, seed and question (`schemas.evaluation.PREDICTIONS`).

        `same_as` is left to SQL; beside the rest stands the `cluster` of the question: the template
        that it was made from, or the question itself.
        """
        predictions = pl.DataFrame(read_table(self.folder / FILE)).drop("same_as", strict=False)
        clusters = pl.DataFrame(read_questions(self.folder)).select(
            "question_id", cluster=pl.coalesce("cluster", "question_id")
        )
        return predictions.join(clusters, on="question_id", how="left", maintain_order="left")

    def sql(self, query: str, parameters: Sequence[Any] = ()) -> pl.DataFrame:
        """Run one read-only DuckDB query over the views; raise QueryError where it fails."""
        from malt_data.storage.query import run

        return pl.DataFrame(run(self, query, parameters))


def open_results(folder: str | Path) -> Results:
    """Open the folder of an evaluation; raise EvalError where there is none."""
    path = Path(folder)
    if not (path / MANIFEST).exists() or not (path / FILE).exists():
        raise EvalError(f"{path} holds no evaluation. Make one: malt-data eval --out {path}")
    return Results(path, read_manifest(path))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the content of `folder`/eval.json; raise EvalError where it is torn or too new."""
    path = folder / MANIFEST
    try:
        facts = read_json(path)
        stamp = facts["schema"]
    except (OSError, ValueError, KeyError) as error:
        raise EvalError(
            f"{path} cannot be read ({error}). Restore it, or evaluate into a new folder: "
            f"the completions in {folder / PARTS} are untouched."
        ) from None
    if stamp != STAMP.decode():
        raise EvalError(
            f"{path} has schema {stamp}, this malt-data reads {STAMP.decode()}. "
            "Upgrade malt-data: pip install -U malt-data"
        )
    return facts


def read_questions(out: Path) -> pa.Table:
    """Return the questions of an evaluation as the newest schema version."""
    return upgrade(read_table(out / QUESTIONS), str(out / QUESTIONS))


def parts(out: Path) -> list[Path]:
    """Return the files that hold the completions, those that a merged one replaces left out."""
    return current(out / PARTS, read_footer)


def write_part(out: Path, table: pa.Table, replaces: Sequence[Path] = ()) -> None:
    """Add whole units as one file, in place of `replaces`; a kill at any instant keeps all once."""
    names = json.dumps([path.name for path in replaces]).encode()
    table = table.replace_schema_metadata({**COMPLETIONS.metadata, REPLACES: names})
    write_table(out / PARTS / f"part-{uuid.uuid4().hex[:16]}.parquet", table)
    for path in replaces:
        path.unlink(missing_ok=True)


def compact(out: Path) -> None:
    """Merge the small files that a run leaves every few seconds; for the one process at work."""
    kept = parts(out)
    for path in {*(out / PARTS).glob("part-*.parquet")} - {*kept}:
        path.unlink(missing_ok=True)  # what a killed merge had replaced
    settle(out / PARTS)
    small = [path for path in kept if path.stat().st_size < _PART_BYTES]
    while len(small) > 1:
        size = 0
        batch = []
        while small and size < _PART_BYTES:
            batch.append(small.pop())
            size += batch[-1].stat().st_size
        tables = [pq.read_table(path, schema=COMPLETIONS) for path in batch]
        order = [(name, "ascending") for name in ("setting", "seed", "question_id", "pass", "turn")]
        write_part(out, pa.concat_tables(tables).sort_by(order), batch)


def forget(out: Path) -> None:
    """Remove what an evaluation without completions has left in `out`."""
    for name in (MANIFEST, QUESTIONS, FILE):
        (out / name).unlink(missing_ok=True)


def write_predictions(out: Path) -> None:
    """Make predictions.parquet anew from all completions in `out`."""
    write_table(out / FILE, predict(out))


def _read_predictions(out: Path) -> pa.Table:
    """Return the stored predictions; `same_as` is found anew where an older version wrote them."""
    stored = read_table(out / FILE)
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
        for path in parts(out):
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
    kind: Kind,
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
