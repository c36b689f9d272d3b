"""A folder belongs to one evaluation: what can be added, and what is refused."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from evaluation.harness import answer, malt, write_questions
from openai_server import OpenAIServer

from malt_data import open_results
from malt_data.evaluation.tables import compare

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer, models=()) as server:
        yield server


@pytest.fixture
def words(tmp_path: Path) -> list[Any]:
    questions = write_questions(tmp_path / "q.jsonl")
    return ["--questions", questions, "--split", "train", "--seeds", 1, "--out", tmp_path / "out"]


def write_team(folder: Path) -> Path:
    folder.mkdir()
    for name in "gvr":
        (folder / name).mkdir()
        (folder / name / "adapter_model.safetensors").write_text("weights")
        (folder / name / "questions.txt").write_text("0\n")
    path = folder / "team.toml"
    path.write_text('model = "m"\n[adapters]\ngenerator = "g"\nverifier = "v"\nrefiner = "r"\n')
    return path


def test_another_model_behind_the_same_address_is_refused(words: list[Any]) -> None:
    for name, settings, code in (("good", "sa", 0), ("good", "sa,ma", 0), ("bad", "sa+mv", 1)):
        with OpenAIServer(answer, models=(name,)) as server:
            _, message = malt(server, *words, "--settings", settings, model=None, code=code)
    assert "a different model (good, now bad)" in message
    results = open_results(words[-1])
    assert results.manifest["spec"]["model"] == "good"
    assert results.settings == ["sa", "ma"]


def test_changed_golds_and_retrained_adapters_are_refused(
    server: OpenAIServer, words: list[Any], tmp_path: Path
) -> None:
    team = write_team(tmp_path / "team")
    malt(server, *words, "--settings", "sa")
    malt(server, *words, "--settings", "malt", "--team", team)  # a team may come later
    malt(server, *words, "--settings", "ma")  # and need not be named again
    malt(server, *words, "--settings", "ma")  # nothing to do: no run of its own
    results = open_results(words[-1])
    assert results.settings == ["sa", "malt", "ma"]
    assert len(results.manifest["runs"]) == 3
    moved = shutil.copytree(team.parent, tmp_path / "moved") / "team.toml"
    malt(server, *words, "--settings", "malt", "--team", moved)  # the same adapters
    (team.parent / "v" / "adapter_model.safetensors").write_text("other weights")
    _, message = malt(server, *words, "--settings", "malt+mv", "--team", team, code=1)
    assert "v, which has been retrained since" in message
    asked = len(server.requests)
    path = Path(words[1])
    path.write_text(path.read_text().replace('"answer": "3"', '"answer": "5"'))
    _, message = malt(server, *words, "--settings", "sa,ma+mv", code=1)
    assert "a different gold answer to question" in message
    assert "(3, now 5)" in message
    assert not [r for r in server.requests[asked:] if "messages" in r.body]


def test_a_question_whose_kind_has_changed_is_refused(
    server: OpenAIServer, words: list[Any]
) -> None:
    malt(server, *words, "--settings", "sa")
    path = Path(words[1])  # one gold that is no number, and all are asked as math
    path.write_text(path.read_text() + '{"question": "What is x + 1?", "answer": "x + 1"}\n')
    _, message = malt(server, *words, "--settings", "sa,ma", code=1)
    assert "a different kind of question" in message
    assert "(numeric, now math)" in message


def test_a_moved_question_file_counts_as_the_same(
    server: OpenAIServer, words: list[Any], tmp_path: Path
) -> None:
    malt(server, *words, "--settings", "sa")
    (tmp_path / "b").mkdir()
    moved = Path(words[1]).rename(tmp_path / "b" / "q.jsonl")
    facts, _ = malt(server, "--questions", moved, *words[2:], "--settings", " sa , ma ")
    assert facts["played"] == 12


def test_a_failed_first_run_does_not_fix_the_model_of_the_folder(
    server: OpenAIServer, words: list[Any], tmp_path: Path
) -> None:
    server.fail_every, server.faults = 1, ("404",)
    malt(server, *words, "--settings", "sa", model="rihgt", code=1)
    server.fail_every = 0
    facts, _ = malt(server, *words, "--settings", "sa", model="right")
    assert facts["played"] == 12


def test_settings_with_different_questions_are_compared_on_shared_ones(
    server: OpenAIServer, words: list[Any]
) -> None:
    malt(server, *words, "--settings", "sa", "--seeds", 4, "--limit", 3)
    facts, message = malt(server, *words, "--settings", "sa,ma", "--against", "sa")
    predictions = (
        open_results(words[-1]).predictions().with_columns(pl.col("correct").fill_null(False))
    )
    rows = {row["setting"]: row for row in facts["settings"]}
    shared = [  # (sa, ma) on the twelve questions that both were asked, under seed 0
        dict(predictions.filter(seed=0, question_id=name).select("setting", "correct").iter_rows())
        for name in predictions["question_id"].unique()
    ]
    behind = sum(one["sa"] - one["ma"] for one in shared) / 12
    assert rows["ma"]["behind"] == pytest.approx(behind)
    assert compare(predictions, "sa", "ma") == {k: rows["ma"][k] for k in ("behind", "p")}
    mine = predictions.filter(setting="sa")
    assert mine.height == 12 + 9  # three questions under each of three other seeds
    assert rows["sa"]["mean"] == pytest.approx(mine["correct"].mean())
    assert rows["sa"]["low"] <= rows["sa"]["mean"] <= rows["sa"]["high"]
    assert f"sa {mine['question_id'].n_unique()} × 4, ma 12 × 1" in message


def test_failures_are_reported_in_a_comparison(server: OpenAIServer, words: list[Any]) -> None:
    malt(server, *words, "--settings", "sa")
    server.fail_every, server.faults = 1, ("400",)
    facts, message = malt(server, *words, "--settings", "sa,debate", "--against", "sa", code=1)
    assert "12 questions failed" in message
    assert [row["setting"] for row in facts["settings"]] == ["sa"]
    assert facts["played"] == 0


def test_refused_rows_are_counted(server: OpenAIServer, words: list[Any], tmp_path: Path) -> None:
    with Path(words[1]).open("a") as file:
        file.write('{"question": "Why?", "answer": ""}\n' * 3)
    _, message = malt(server, *words, "--settings", "sa")
    assert "3 questions refused" in message
    assert sum(open_results(words[-1]).manifest["questions"]["refused"].values()) == 3


def test_config_settings_are_applied_or_refused(
    server: OpenAIServer, words: list[Any], tmp_path: Path
) -> None:
    config = tmp_path / "c.toml"
    config.write_text('split = "train"\ntemperature = 0.7\n')
    rest = [*words[:2], *words[4:], "--settings", "sa", "--config", config]
    facts, _ = malt(server, *rest)  # without --split
    assert facts["played"] == 12
    assert json.loads((Path(words[-1]) / "eval.json").read_text())["spec"]["temperature"] == 0.7
    for name, value in (("shard", '"1/4"'), ("threshold", 0.7), ("seed", 7)):  # of a build
        config.write_text(f"{name} = {value}\n")
        _, said = malt(server, *rest, code=2)
        assert f"unknown setting '{name}'" in said


@pytest.mark.parametrize("name", ["eval.json", "questions.parquet", "completions"])
@pytest.mark.parametrize("content", ["", "{}", "garbage"])
def test_a_corrupt_file_is_named(
    server: OpenAIServer, words: list[Any], name: str, content: str
) -> None:
    malt(server, *words, "--settings", "sa")
    path = next(Path(words[-1]).glob(f"{name}/*.parquet"), Path(words[-1]) / name)
    path.write_text(content)
    _, message = malt(server, *words, "--settings", "sa,ma", code=1)
    assert path.name in message
    assert "again" in message or "new folder" in message


def test_a_newer_schema_is_refused(server: OpenAIServer, words: list[Any]) -> None:
    malt(server, *words, "--settings", "sa")
    path = Path(words[-1]) / "eval.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": "eval/2"}))
    _, message = malt(server, *words, "--settings", "sa", code=1)
    assert "has schema eval/2, but this malt-data reads eval/1" in message


def test_a_folder_that_cannot_be_created_is_a_clear_error(
    server: OpenAIServer, words: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    _, message = malt(server, *words[:-1], tmp_path / "file" / "out", "--settings", "sa", code=1)
    assert "could not be written" in message


def test_missing_token_counts_are_not_zero(words: list[Any]) -> None:
    with OpenAIServer(answer, models=(), usage=False) as server:
        facts, message = malt(server, *words, "--settings", "sa,ma", "--figures")
    assert {row["prompt_tokens"] for row in facts["settings"]} == {None}
    assert "cost.svg" not in message
    assert "turns.svg" in message
