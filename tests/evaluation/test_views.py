"""The views over results and forests against plain Python over the same completions."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from evaluation.harness import write_questions
from openai_server import OpenAIServer
from synthetic import make_forest

from malt_data import EvalError, Results, open_results
from malt_data.evaluation.evaluate import evaluate
from malt_data.evaluation.plan import plan_evaluation
from malt_data.evaluation.settings import find_settings
from malt_data.schemas.spec import EvalSpec
from malt_data.storage.query import connect

CRITICISMS = {
    "Yes, this is right.": "accepts",
    "No, it is four.": "rejects",
    "I cannot tell.": "unclear",
    "Final Answer: 3": None,
    "Final Answer: 4.0": None,
}
KEPT = Path(__file__).parents[2] / "docs" / "results"


def answer(messages: list[dict[str, str]], seed: int | None, sample: int) -> str:
    source = random.Random(f"{messages[-1]['content']}{seed}")
    if "Is the initial answer correct?" in messages[-1]["content"]:
        return source.choice(list(CRITICISMS))
    return source.choice([f"Final Answer: {n}" for n in ("3", "3.0", "4", "4.0")] + ["Pardon?"])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("views")
    own = folder / "own.toml"
    own.write_text('[five]\nturns = ["generator"]\nvotes = 5\n'
                   '[gv]\nturns = ["generator", "verifier"]\nvotes = 2\n')  # fmt: skip
    with OpenAIServer(answer, models=()) as server:
        spec = EvalSpec(questions=str(write_questions(folder / "q.jsonl")), split="train",
                    engine="openai", base_url=server.base_url, model="m")  # fmt: skip
        settings = find_settings(["sa", "five", "gv", "ma+mv", "debate"], own)
        nobody: dict[str, dict[str, str]] = {"team": {}, "sft": {}}
        report = evaluate(plan_evaluation(spec, settings, nobody, folder / "out", seeds=2))
    assert report["failed"] == {}
    return open_results(folder / "out")


def test_an_evaluation_that_still_runs_counts_what_has_predictions(
    results: Results, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(results.folder, folder)
    table = pq.read_table(folder / "predictions.parquet")
    pq.write_table(table.filter(pc.equal(table["seed"], 0)), folder / "predictions.parquet")
    half = open_results(folder)
    counts = "SELECT setting, count(*) FROM turns WHERE seed = 0 GROUP BY ALL ORDER BY ALL"
    for query in ("SELECT setting, completions FROM cost ORDER BY ALL", counts):
        assert half.sql(query).rows() == results.sql(query).rows()
    assert half.sql("SELECT DISTINCT seed FROM turns").rows() == [(0,)]
    (folder / "predictions.parquet").unlink()
    with pytest.raises(EvalError, match="no predictions yet"):
        open_results(folder)


def shown(results: Results) -> dict[Any, list[list[str | None]]]:
    """Return for (setting, seed, question) what each pass would answer after each of its turns."""
    found: dict[Any, dict[int, list[str | None]]] = {}
    rows = pl.DataFrame(results.tables()["completions"].to_table())
    for row in rows.sort("pass", "turn").to_dicts():
        unit = found.setdefault((row["setting"], row["seed"], row["question_id"]), {})
        message = unit.setdefault(row["pass"], [])
        keeps = row["role"] == "verifier" and row["answer"] is None
        message.append(message[-1] if keeps else row["answer"])
    return {unit: list(passes.values()) for unit, passes in found.items()}


def elected(answers: list[str | None]) -> bool:
    """Tell whether the vote is right: the gold is 3, and 3.0 is the same."""
    values = [float(answer) for answer in answers if answer is not None]
    votes = Counter(values)
    return bool(values) and max(votes, key=lambda value: votes[value]) == 3  # ties: the first


def test_voted_accuracy_by_turn_and_by_number_of_votes(results: Results) -> None:
    by_turn: dict[Any, list[bool]] = {}
    by_votes: dict[Any, list[bool]] = {}
    for (setting, *_), passes in shown(results).items():
        for turn in range(len(passes[0])):
            voted = elected([message[turn] for message in passes])
            by_turn.setdefault((setting, turn), []).append(voted)
        for voters in {*range(1, len(passes), 2), len(passes)}:
            voted = elected([message[-1] for message in passes[:voters]])
            by_votes.setdefault((setting, voters), []).append(voted)
    found = results.sql("SELECT setting, turn, voted FROM turn_accuracy").rows()
    assert {row[:2]: row[2] for row in found} == pytest.approx(
        {key: sum(right) / len(right) for key, right in by_turn.items()}
    )
    found = results.sql("SELECT setting, votes, accuracy FROM votes").rows()
    assert {row[:2]: row[2] for row in found} == pytest.approx(
        {key: sum(right) / len(right) for key, right in by_votes.items()}
    )
    assert {key for key in by_votes if key[0] in ("five", "gv")} == {
        ("five", 1), ("five", 3), ("five", 5), ("gv", 1), ("gv", 2)
    }  # fmt: skip
    all_of = results.sql("SELECT setting, arg_max(accuracy, votes) AS a FROM votes GROUP BY ALL")
    accuracy = results.sql("SELECT setting, accuracy AS a FROM accuracy")
    assert dict(all_of.rows()) == pytest.approx(dict(accuracy.rows()))


def test_flips_against_another_setting(results: Results) -> None:
    right = {
        (row["setting"], row["seed"], row["question_id"]): bool(row["correct"])
        for row in results.predictions().to_dicts()
    }
    rows = results.sql("FROM flips WHERE base IS NOT NULL").to_dicts()
    assert len(rows) == 5 * 4
    for row in rows:
        ends = [(was, right[row["setting"], *unit]) for (name, *unit), was in right.items()
                if name == row["base"]]  # fmt: skip
        assert row["passes"] == len(ends) == 24
        assert row["wrong_to_right"] == pytest.approx(sum(b and not a for a, b in ends) / 24)
        assert row["right_to_wrong"] == pytest.approx(sum(a and not b for a, b in ends) / 24)


def count(judgements: list[tuple[str, bool]]) -> dict[str, int]:
    """Count (judgement, was the answer right) as the views do."""
    found = Counter(judgements)
    return {
        "judged": len(judgements),
        "true_acceptances": found["accepts", True],
        "false_acceptances": found["accepts", False],
        "true_rejections": found["rejects", False],
        "false_rejections": found["rejects", True],
        "unclear": found["unclear", True] + found["unclear", False],
    }


def test_verdicts_of_settings(results: Results) -> None:
    judgements: dict[str, list[tuple[str, bool]]] = {}
    passes = shown(results)
    rows = pl.DataFrame(results.tables()["completions"].to_table()).filter(role="verifier")
    for row in rows.to_dicts():
        unit = row["setting"], row["seed"], row["question_id"]
        before = passes[unit][row["pass"]][row["turn"] - 1]
        message = CRITICISMS[row["text"]]
        if message is None:
            same = before is not None and float(before) == float(row["answer"])
            message = "accepts" if same else "rejects"
        right = before is not None and float(before) == 3
        judgements.setdefault(row["setting"], []).append((message, right))
    found = {row.pop("setting"): row for row in results.sql("FROM verdicts").to_dicts()}
    assert found.keys() == judgements.keys() == {"gv", "ma+mv"}
    for setting, row in found.items():
        assert row.pop("turn") == 1
        accuracy = row.pop("accuracy")
        assert row == count(judgements[setting])
        assert min(row.values()) > 0  # every cell is tried
        right = row["true_acceptances"] + row["true_rejections"]
        assert accuracy == pytest.approx(right / (row["judged"] - row["unclear"]))


def test_verdicts_of_a_forest(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=9)
    nodes = {row["node_id"]: row for row in forest.nodes().collect().to_dicts()}
    judgements = []
    for node in nodes.values():
        if node["role"] == "verifier":
            before = nodes[node["parent_id"]]
            same = "accepts" if node["answer"] == before["answer"] else "rejects"
            judgements.append(("unclear" if node["answer"] is None else same, before["correct"]))
    (row,) = forest.sql("SELECT * EXCLUDE (accuracy) FROM verdicts").to_dicts()
    assert (row.pop("role"), row.pop("depth")) == ("verifier", 2)
    assert row == count(judgements)


@pytest.mark.parametrize(
    ("text", "judgement"),
    [
        ("Yes, this is right.", "accepts"),
        ("No, it is 12.", "rejects"),
        ("**Correct.** 4 + 7 = 11", "accepts"),
        ("Incorrect: 4 + 7 = 11", "rejects"),
        ("Correct answer: 12", "unclear"),
        ("No errors were found. The initial answer is correct.", "accepts"),
        ("The initial answer is incorrect. It should be 3.5.", "rejects"),
        ("3.5 is less than 4.\nSo the initial answer isn't right.\n", "rejects"),
        ("The initial answer of 3.5 is indeed correct!**", "accepts"),
        ("Nothing is wrong.", "unclear"),
        ("Is the initial answer correct?", "unclear"),
        ("If it were 12, the answer is wrong", "unclear"),
        ("Yes, but the answer is wrong.", "unclear"),
        ("The steps are correct, but the answer is wrong.", "unclear"),
        ("<think>No, the answer is wrong.</think>Yes.", "accepts"),
        ("<think>Yes. The answer is right", "unclear"),
        ("I cannot tell.", "unclear"),
        ("", "unclear"),
    ],
)
def test_a_judgement_by_wording(
    judge: duckdb.DuckDBPyConnection, text: str, judgement: str
) -> None:
    query = "SELECT judgement(?, NULL, false, '12', true, false)"
    assert judge.execute(query, [text]).fetchone() == (judgement,)


@pytest.mark.parametrize(
    ("mine", "before", "choices", "judgement"),
    [
        (("11", False), ("11.0", False), False, "accepts"),
        (("1,000", False), ("$1000", False), False, "accepts"),
        (("eleven", True), ("11", True), False, "accepts"),  # the grader knows
        (("11", False), ("12", False), False, "rejects"),
        (("11", True), (None, False), False, "rejects"),
        (("(D) ground", False), ("D", False), True, "accepts"),
        (("D. ground", False), ("E", False), True, "rejects"),
        (("x + 1", False), ("x + 2", False), False, "rejects"),
    ],
)
def test_the_verifiers_own_answer_decides_its_judgement(
    judge: duckdb.DuckDBPyConnection,
    mine: tuple[str, bool],
    before: tuple[str | None, bool],
    choices: bool,
    judgement: str,
) -> None:
    query = "SELECT judgement('Yes.', ?, ?, ?, ?, ?)"
    assert judge.execute(query, [*mine, *before, choices]).fetchone() == (judgement,)


@pytest.fixture(scope="module")
def judge(results: Results) -> duckdb.DuckDBPyConnection:
    return connect(results)


@pytest.mark.parametrize("name", ["steps/lone", "steps/ablations"])
def test_folders_of_an_older_version_are_read_and_not_changed(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(KEPT / name, folder)
    stored = folder / "predictions.parquet"
    before = stored.read_bytes()
    assert "same_as" not in pq.read_schema(stored).names
    old = open_results(folder)
    votes = old.sql("SELECT setting, arg_max(accuracy, votes) AS a FROM votes GROUP BY ALL")
    accuracy = old.sql("SELECT setting, accuracy AS a FROM accuracy")
    assert dict(votes.rows()) == pytest.approx(dict(accuracy.rows()))
    assert old.sql("FROM verdicts").height == (0 if name == "steps/lone" else 5)
    predictions = old.predictions()
    assert (predictions["cluster"] == predictions["question_id"]).all()
    assert stored.read_bytes() == before
    assert len(json.loads((folder / "eval.json").read_text())["settings"]) == accuracy.height
