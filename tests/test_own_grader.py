"""A grader of the user's own through the commands, and that nobody else's is ever run."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from openai_server import OpenAIServer
from shell import malt

from malt_data import open_results
from malt_data.forests.forest import open_forest

EXAMPLES = Path(__file__).parents[1] / "examples"
RIGHT = "```python\ndef double(n):\n    return 2 * n\n```"
HALF = "```python\ndef double(n):\n    return abs(2 * n)\n```"


def _program(messages: list[dict[str, str]], seed: int | None, sample: int) -> str:
    return [RIGHT, HALF, "I cannot say."][sample % 3]


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(_program) as server:
        yield server


def _build(server: OpenAIServer, folder: Path, *words: object) -> Any:
    for name in ("programs.py", "programs.toml"):
        shutil.copy(EXAMPLES / name, folder)
    first = (EXAMPLES / "programs.jsonl").read_text().splitlines()[0]
    (folder / "tasks.jsonl").write_text(first + "\n")
    return malt(
        "build", "--questions", "tasks.jsonl", "--pipeline", "programs.toml", "--engine", "openai",
        "--model", "test-model", "--base-url", server.base_url, *words, cwd=folder,
    )  # fmt: skip


@pytest.fixture
def grown(server: OpenAIServer, tmp_path: Path) -> Path:
    """A folder with a forest graded by `programs.py:grade`."""
    done = _build(server, tmp_path, "--grader", "./programs.py:grade")
    assert done.returncode == 0, done.stderr
    return tmp_path


def _nodes(folder: Path, forest: str = "forest") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = open_forest(folder / forest).nodes().collect().to_dicts()
    return rows


@pytest.mark.slow
def test_a_build_is_rewarded_by_the_function_relabelled_verified_and_exported(grown: Path) -> None:
    nodes = _nodes(grown)
    by_text = {(row["text"], row["verdict"], row["correct"]) for row in nodes}
    assert by_text == {
        (RIGHT, "right", True), (HALF, "wrong", False), ("I cannot say.", "wrong", False),
    }  # fmt: skip
    leaves = [row for row in nodes if row["reward"] is not None]
    assert len(leaves) == 27
    assert {row["text"]: round(row["reward"], 3) for row in leaves} == {
        RIGHT: 1.0, HALF: 0.667, "I cannot say.": 0.0,
    }  # fmt: skip
    assert {row["label"] for row in nodes if row["depth"] == 1} == {True}  # a mean of 5/9
    manifest = json.loads((grown / "forest/forest.json").read_text())
    assert manifest["labels"]["grader"] == manifest["spec"]["grader"] == "programs.py:grade"

    done = malt("relabel", "--threshold", "0.9", cwd=grown)
    assert done.returncode == 0, done.stderr
    assert {row["label"] for row in _nodes(grown) if row["text"] == HALF and row["reward"]} == {
        False
    }
    done = malt("relabel", "--grader", "programs.py:grade", cwd=grown)
    assert done.returncode == 0, done.stderr

    done = malt("verify", cwd=grown)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "graded by programs.py:grade, which verify does not run" in done.stderr
    done = malt("verify", "--grader", "programs.py:grade", cwd=grown)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "does not run" not in done.stderr

    done = malt("export", "--role", "refiner", "--format", "dpo", cwd=grown)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_relabel_and_verify_wait_as_long_as_the_build(grown: Path) -> None:
    (grown / "programs.py").write_text(
        "import time\ndef grade(text, question):\n    time.sleep(1)\n    return 1.0\n"
    )
    manifest = grown / "forest" / "forest.json"
    facts = json.loads(manifest.read_text())
    facts["spec"]["grader_timeout"] = 0.1
    manifest.write_text(json.dumps(facts))
    done = malt("relabel", "--grader", "programs.py:grade", cwd=grown)
    assert done.returncode == 1
    assert "has failed on all" in done.stderr
    done = malt("verify", "--grader", "programs.py:grade", cwd=grown)
    assert "has failed on all" in done.stdout


@pytest.mark.slow
def test_verify_by_another_function_finds_the_difference(grown: Path) -> None:
    path = grown / "programs.py"
    path.write_text(path.read_text().replace("return 0.0", "return 0.5"))
    done = malt("verify", "--grader", "programs.py:grade", cwd=grown)
    assert done.returncode == 1
    assert "rewards that differ when graded again" in done.stdout


@pytest.mark.slow
def test_a_build_resumes_only_if_the_function_is_named_again(
    server: OpenAIServer, grown: Path
) -> None:
    done = malt("build", cwd=grown)
    assert done.returncode == 2
    assert "--grader programs.py:grade" in done.stderr
    assert _build(server, grown, "--grader", "programs.py:grade").returncode == 0


@pytest.mark.slow
def test_a_function_that_cannot_be_loaded_stops_a_build_before_it_samples(
    server: OpenAIServer, tmp_path: Path
) -> None:
    before = len(server.bodies)
    for name, message in (
        ("gone.py:grade", "there is no file gone.py"),
        ("programs.py:judge", "cannot be loaded"),
        ("programs.py", "Invalid value for '--grader'"),
    ):
        done = _build(server, tmp_path, "--grader", name)
        assert done.returncode != 0
        assert message in done.stderr
        assert not (tmp_path / "forest").exists()
    assert len(server.bodies) == before


@pytest.mark.slow
def test_a_function_that_always_fails_stops_a_build(server: OpenAIServer, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def grade(completion, question):\n    return question.x\n")
    done = _build(server, tmp_path, "--grader", "broken.py:grade")
    assert done.returncode == 1
    assert "broken.py:grade has failed on all of the first 20 completions" in done.stderr
    assert "AttributeError" in done.stderr


@pytest.mark.slow
def test_without_the_function_its_kind_is_refused(server: OpenAIServer, tmp_path: Path) -> None:
    done = _build(server, tmp_path)
    assert done.returncode == 1
    assert "no gold answer" in done.stderr


@pytest.mark.slow
def test_an_evaluation_votes_by_text_and_grades_by_the_function(
    server: OpenAIServer, tmp_path: Path
) -> None:
    for name in ("programs.py", "programs.toml"):
        shutil.copy(EXAMPLES / name, tmp_path)
    first = (EXAMPLES / "programs.jsonl").read_text().splitlines()[0]
    (tmp_path / "tasks.jsonl").write_text(first + "\n")
    words = [
        "eval", "--questions", "tasks.jsonl", "--split", "train", "--settings", "sa+mv",
        "--seeds", "1", "--pipeline", "programs.toml", "--engine", "openai", "--model",
        "test-model", "--base-url", server.base_url,
    ]  # fmt: skip
    done = malt(*words, "--grader", "programs.py:grade", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = malt("sql", "results", "FROM predictions", "--json", cwd=tmp_path)
    (row,) = json.loads(done.stdout)
    assert row["correct"] is True
    done = malt(*words, cwd=tmp_path)
    assert done.returncode != 0
    assert "ran" not in done.stdout


def _worded(messages: list[dict[str, str]], seed: int | None, sample: int) -> str:
    """Answer 7, 8 or nothing, in one of several wordings."""
    die = random.Random(f"{messages}{seed}{sample}")
    answers = ["?", *["Final Answer: 7", "Final Answer: 8"] * 2]
    return die.choice(["", "Well. ", "So. "]) + die.choice(answers)


@pytest.mark.slow
def test_a_vote_has_the_grade_of_the_first_pass_that_ended_with_it(tmp_path: Path) -> None:
    """Here the grade depends on the wording, so texts with the same answer have different ones."""
    (tmp_path / "wording.py").write_text(
        "def grade(completion, question):\n    return len(completion) % 5 > 1\n"
    )
    rows = [{"question": f"What is {i}?", "answer": "7"} for i in range(40)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with OpenAIServer(_worded, models=("m",)) as server:
        done = malt(
            "eval", "--questions", "q.jsonl", "--split", "train", "--settings", "sa,ma+mv",
            "--seeds", 1, "--engine", "openai", "--model", "m", "--base-url", server.base_url,
            "--grader", "wording.py:grade", cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = open_results(tmp_path / "results")
    told = "SELECT setting, question_id, answer, correct FROM"
    elected = results.sql(f"{told} predictions ORDER BY ALL")
    last = "turn = (SELECT max(turn) FROM turns AS t WHERE t.setting = ballots.setting)"
    assert elected.equals(
        results.sql(f"{told} ballots WHERE voters = passes AND {last} ORDER BY ALL")
    )
    assert elected.filter(pl.col("answer").is_null() & pl.col("correct")).height  # both are seen
    assert elected.filter(pl.col("answer").is_not_null() & pl.col("correct")).height


EVIL = "open({!r}, 'w').close()\ndef grade(completion, question):\n    return 1\n"


@pytest.mark.slow
@pytest.mark.parametrize("grader", ["evil.py:grade", "evil:grade", "os:system"])
def test_a_grader_that_a_forest_names_is_never_run(grown: Path, grader: str) -> None:
    """Neither by its manifest, by the footers of its parts, nor by what is exported from it."""
    ran = grown / "ran"
    (grown / "evil.py").write_text(EVIL.format(str(ran)))
    done = malt("relabel", "--grader", "programs.py:grade", cwd=grown)
    assert done.returncode == 0
    manifest = grown / "forest/forest.json"
    manifest.write_text(manifest.read_text().replace("programs.py:grade", grader))
    commands: list[tuple[object, ...]] = [
        ("stats",),
        ("show",),
        ("sql", "FROM nodes"),
        ("verify",),
        ("explain", _nodes(grown)[0]["node_id"]),
        ("relabel", "--threshold", "0.7"),
        ("relabel", "--pooling", "local", "--dry-run"),
        ("build",),
        ("build", "--limit", "5"),
        ("export", "--role", "refiner", "--format", "dpo"),
        ("relabel", "--grader", "auto"),
        ("push", "ann/trees", "--dry-run"),
    ]
    for command in commands:
        done = malt(*command, cwd=grown)
        assert "Traceback" not in done.stderr, command
        assert not ran.exists(), command


@pytest.mark.slow
@pytest.mark.parametrize("command", ["build", "eval", "ask"])
def test_a_grader_that_a_team_names_is_never_run(
    server: OpenAIServer, tmp_path: Path, command: str
) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(EVIL.format(str(ran)))
    (tmp_path / "team.toml").write_text(
        'model = "test-model"\n[sampling]\ngrader = "evil.py:grade"\n'
    )
    words = {"build": ["build"], "eval": ["eval", "--settings", "sa"], "ask": ["ask", "1 + 1?"]}
    done = malt(
        *words[command], "--team", "team.toml", "--engine", "openai", "--base-url", server.base_url,
        cwd=tmp_path,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert not ran.exists()
    if command != "ask":  # which grades nothing
        assert done.returncode == 2
        assert "a function that malt-data does not run unless you name it" in done.stderr
