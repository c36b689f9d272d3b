"""Results from completions: predictions, SQL, the paper's table, intervals and paired tests.

results = open_results("results")
results.sql("FROM accuracy")             # polars DataFrame; also turns, turn_accuracy, flips
table(results)[0]                        # {"setting": "sa", "mean": 0.31, "std": 0.02, …}
compare(results.predictions(), "malt+mv", "star-ma+mv")    # {"behind": 0.08, "p": 0.002}
"""

import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from malt_data.documents import read_json
from malt_data.errors import EvalError
from malt_data.evaluation.settings import Setting
from malt_data.evaluation.vote import ballots, majority
from malt_data.forests.parts import REPLACES, read_schema, read_table, write_table
from malt_data.graders import Grader, Kind, graded_as
from malt_data.schemas.evaluation import COMPLETIONS, PREDICTIONS, STAMP
from malt_data.schemas.versions import upgrade

MANIFEST = "eval.json"
PARTS = "completions"
QUESTIONS = "questions.parquet"
FILE = "predictions.parquet"
_RESAMPLES = 10_000
_RIGHT = pl.col("correct").fill_null(False).cast(pl.Float64)
_COUNTED = ["setting", "seed", "question_id", "pass", "turn", "role", "answer", "prompt_tokens",
            "completion_tokens", "latency"]  # fmt: skip
_AT_ONCE = 100  # resamples in memory
_PART_BYTES = 16 * 2**20


class Results:
    """A folder that `malt-data eval` wrote: `manifest`, its tables, and SQL over them."""

    views: tuple[str, ...] = ("accuracy", "turns", "turn_accuracy", "flips")

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
            "predictions": ds.dataset(self.folder / FILE, schema=PREDICTIONS),
        }

    def predictions(self) -> pl.DataFrame:
        """Return one row a setting, seed and question (`schemas.evaluation.PREDICTIONS`)."""
        return pl.DataFrame(pq.read_table(self.folder / FILE))

    def sql(self, query: str, parameters: Sequence[Any] = ()) -> pl.DataFrame:
        """Run one read-only DuckDB query over the views; raise QueryError where it fails."""
        from malt_data.forests.query import run

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
    found = sorted((out / PARTS).glob("part-*.parquet"))
    replaced: set[str] = set()
    for path in found:
        replaced.update(json.loads((read_schema(path).metadata or {}).get(REPLACES, b"[]")))
    return [path for path in found if path.name not in replaced]


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
    write_table(out / FILE, pa.Table.from_pylist(rows, schema=PREDICTIONS))


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

    votes = ballots((row["pass"], row["turn"], row["role"], row["answer"]) for row in rows)
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


# --- the table ------------------------------------------------------------------------------------


def table(results: Results, against: str | None = None) -> list[dict[str, Any]]:
    """Return a row a setting, in the order of eval.json.

    mean: share of right answers. std: of the seeds' means (with n - 1; 0 for one seed). low, high:
    a bootstrap interval of 95 % over questions. tokens and seconds: of a question. against: a
    setting to compare every other one with; `behind` and `p` are what `compare(…, against,
    setting)` gives, None where the two have no question in common.
    Raises EvalError where `against` was not evaluated.
    """
    if against is not None:
        require(against, results.settings)
    predictions = results.predictions()
    found = []
    for name in results.settings:
        mine = predictions.filter(pl.col("setting") == name)
        if not mine.height:
            continue
        right = mine.select("seed", "question_id", right=_RIGHT)
        by_seed = right.group_by("seed").agg(pl.mean("right")).sort("seed")["right"]
        low, high = interval(right)
        found.append(
            {
                "setting": name,
                "questions": right["question_id"].n_unique(),
                "seeds": len(by_seed),
                "mean": right["right"].mean(),
                "std": by_seed.std() if len(by_seed) > 1 else 0.0,
                "low": low,
                "high": high,
                "unanswered": mine["answer"].null_count() / mine.height,
                "prompt_tokens": mine["prompt_tokens"].mean(),
                "completion_tokens": mine["completion_tokens"].mean(),
                "seconds": mine["seconds"].mean(),
            }
        )
        if against is not None:
            test = compare(predictions, against, name) if name != against else None
            found[-1] |= test if test is not None else dict.fromkeys(("behind", "p"))
    return found


def require(against: str, names: Sequence[str]) -> None:
    """Raise EvalError where `against` is none of the settings `names`."""
    if against not in names:
        raise EvalError(f"{against} is not evaluated, only {', '.join(names)}.")


def interval(units: pl.DataFrame, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of `right` (0 or 1) over `units`.

    Questions are drawn, each with all its seeds: those of one question are not independent.
    """
    right, asked = _by_question(units)
    source = np.random.default_rng(seed)
    means = np.empty(_RESAMPLES)
    for start in range(0, _RESAMPLES, _AT_ONCE):
        drawn = source.integers(0, len(right), (_AT_ONCE, len(right)))
        means[start : start + _AT_ONCE] = right[drawn].sum(axis=1) / asked[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def compare(
    predictions: pl.DataFrame, one: str, other: str, seed: int = 0
) -> dict[str, float] | None:
    """Return how much better `one` is than `other` where both were asked, and p; None if nowhere.

    behind: the difference of the shares of right answers, over the questions and seeds of both.
    p: two-sided, from flipping the sign of each question's difference at random (a paired
    permutation test; a question's seeds stay together).
    """
    keys = ["seed", "question_id"]
    sides = [
        predictions.filter(pl.col("setting") == name).select(*keys, _RIGHT.alias(side))
        for name, side in ((one, "a"), (other, "b"))
    ]
    paired = sides[0].join(sides[1], on=keys)
    if not paired.height:
        return None
    differences, _ = _by_question(paired.with_columns(right=pl.col("a") - pl.col("b")))
    observed = abs(differences.sum())
    source = np.random.default_rng(seed)
    beyond = 0
    for _ in range(0, _RESAMPLES, _AT_ONCE):
        signs = source.choice((-1.0, 1.0), (_AT_ONCE, len(differences)))
        beyond += int((np.abs(signs @ differences) >= observed - 1e-9).sum())
    return {
        "behind": float(differences.sum() / paired.height),
        "p": (beyond + 1) / (_RESAMPLES + 1),
    }


def _by_question(units: pl.DataFrame) -> tuple[Any, Any]:
    """Return each question's sum of `right`, and how often it was asked, as arrays."""
    grouped = units.group_by("question_id").agg(pl.sum("right"), asked=pl.len())
    grouped = grouped.sort("question_id")
    return grouped["right"].to_numpy(), grouped["asked"].to_numpy()


def tokens(row: dict[str, Any]) -> Any:
    """Return the tokens of a question, prompts included; None where the engine did not say."""
    return _sum((row["prompt_tokens"], row["completion_tokens"]))


def readable(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return the rows for people: behind in points, tokens and seconds a question."""
    std = any(row["seeds"] > 1 for row in rows)  # one seed has no deviation
    cells: dict[str, Callable[[dict[str, Any]], str]] = {
        "setting": lambda r: r["setting"],
        "accuracy, % ± std" if std else "accuracy, %": lambda r: (
            f"{100 * r['mean']:.2f}" + (f" ±{100 * r['std']:.2f}" if r["seeds"] > 1 else "")
        ),
        "95 % interval": lambda r: f"{100 * r['low']:.1f}-{100 * r['high']:.1f}",
        "no answer, %": lambda r: f"{100 * r['unanswered']:.1f}",
        "tokens": lambda r: "" if (count := tokens(r)) is None else f"{count:.0f}",
        "seconds": lambda r: f"{r['seconds']:.1f}",
    }
    if rows and "p" in rows[0]:
        cells["behind"] = lambda r: "" if r["p"] is None else f"{100 * r['behind']:.1f}"
        cells["p"] = lambda r: "" if r["p"] is None else f"{r['p']:.4f}"
    return [{name: cell(row) for name, cell in cells.items()} for row in rows]


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table in the layout of the paper's Table 1: a column a setting."""
    if not rows:
        return ""
    columns = readable(rows)
    lines = [[name, *(column[name] for column in columns)] for name in columns[0]]
    lines[0][0] = ""
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("|" + "|".join(line) + "|" for line in lines)
