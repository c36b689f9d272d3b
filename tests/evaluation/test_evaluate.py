"""Whole evaluations against a server: recomputed, resumed, refused, and without leaks."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from evaluation.harness import answer, malt, timeless, write_questions
from openai_server import OpenAIServer
from shell import malt as run_malt

from malt_data.evaluation.tables import compare

EVERY = (
    "sa,sa+mv,ma,ma+mv,malt,malt+mv,star-ma+mv,debate,malt-base-v,malt-g,malt-gv,malt-gr,"
    "star-sa-long,star-ma-long+mv,malt-lone,shared"
)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write_questions(tmp_path / "q.jsonl")


@pytest.fixture
def team(tmp_path: Path) -> Path:
    path = tmp_path / "team.toml"
    path.write_text(
        'model = "m"\n[adapters]\ngenerator = "g"\nverifier = "v"\nrefiner = "r"\n'
        '[sft]\ngenerator = "g-sft"\nverifier = "v-sft"\nrefiner = "r-sft"\n'
        '[sft_long]\ngenerator = "g-long"\nverifier = "v-long"\nrefiner = "r-long"\n'
        '[lone]\ngenerator = "g-lone"\n'
        '[shared]\ngenerator = "one"\nverifier = "one"\nrefiner = "one"\n'
    )
    return path


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer, models=()) as server:
        yield server


def completions(out: Path) -> list[dict[str, Any]]:
    return pl.read_parquet(out / "completions" / "*.parquet").to_dicts()


def test_every_setting_recomputed_from_its_completions(
    server: OpenAIServer, questions: Path, team: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    facts, _ = malt(server, "--questions", questions, "--split", "train", "--settings", EVERY,
                    "--seeds", 2, "--limit", 7, "--team", team, "--out", out)  # fmt: skip
    names = EVERY.split(",")
    assert facts["units"] == facts["played"] == len(names) * 2 * 7
    predictions = {
        (row["setting"], row["seed"], row["question_id"]): row
        for row in pl.read_parquet(out / "predictions.parquet").to_dicts()
    }
    assert len(predictions) == len(names) * 2 * 7
    units: dict[Any, list[dict[str, Any]]] = {}
    for row in completions(out):
        units.setdefault((row["setting"], row["seed"], row["question_id"]), []).append(row)
    assert units.keys() == predictions.keys()
    for key, rows in units.items():
        votes = [last_answer(rows, p) for p in sorted({row["pass"] for row in rows})]
        counts = Counter(vote for vote in votes if vote is not None)
        best = [v for v in votes if v is not None and counts[v] == max(counts.values())]
        expected = best[0] if best else None
        found = predictions[key]
        assert found["votes"] == votes
        assert found["answer"] == expected
        assert found["correct"] is (expected == "3")
        assert found["completion_tokens"] == sum(row["completion_tokens"] for row in rows)
        shape = Counter((row["pass"], row["role"]) for row in rows)
        assert shape == shape_of(key[0])
        for row in rows:
            assert row["adapter"] == adapter_of(key[0], row["role"])
    for row in facts["settings"]:
        mine = [p for key, p in predictions.items() if key[0] == row["setting"]]
        by_seed = [sum(p["correct"] for p in mine if p["seed"] == seed) / 7 for seed in range(2)]
        assert row["mean"] == pytest.approx(sum(by_seed) / 2)
        mean = sum(by_seed) / 2
        assert row["std"] == pytest.approx(sum((x - mean) ** 2 for x in by_seed) ** 0.5)


def last_answer(rows: list[dict[str, Any]], number: int) -> str | None:
    turns = sorted((row["turn"], row) for row in rows if row["pass"] == number)
    answer: str | None = turns[-1][1]["answer"]
    if answer is None and turns[-1][1]["role"] == "verifier":
        answer = turns[-2][1]["answer"]
    return answer


def shape_of(setting: str) -> Counter[tuple[int, str]]:
    if setting == "debate":
        return Counter({(agent, "generator"): 3 for agent in range(3)})
    roles = {"sa": "g", "malt-g": "g", "malt-gv": "gv", "malt-gr": "gr", "star-sa-long": "g",
             "malt-lone": "g"}  # fmt: skip
    letters = roles.get(setting.removesuffix("+mv"), "gvr")
    names = {"g": "generator", "v": "verifier", "r": "refiner"}
    passes = 3 if setting.endswith("+mv") else 1
    return Counter({(p, names[letter]): 1 for p in range(passes) for letter in letters})


def adapter_of(setting: str, role: str) -> str | None:
    if setting in ("malt-lone", "shared"):
        return {"malt-lone": "g-lone", "shared": "one"}[setting]
    if "long" in setting:
        return f"{role[0]}-long"
    if setting.startswith("star"):
        return f"{role[0]}-sft"
    trained = setting.startswith("malt") and not (setting == "malt-base-v" and role == "verifier")
    return role[0] if trained else None


def test_no_prompt_contains_the_gold_answer_and_prompts_are_those_of_builds(
    server: OpenAIServer, tmp_path: Path
) -> None:
    path = tmp_path / "q.jsonl"
    gold = "914273651"
    path.write_text(json.dumps({"question": "How many?", "answer": f"So many. #### {gold}"}) + "\n")
    out = tmp_path / "out"
    malt(server, "--questions", path, "--split", "train", "--settings", "sa,ma+mv,debate,malt-gr",
         "--seeds", 1, "--out", out, code=1)  # fmt: skip
    malt(server, "--questions", path, "--split", "train", "--settings", "sa,ma+mv,debate",
         "--seeds", 1, "--out", out)  # fmt: skip
    rows = completions(out)
    assert rows
    assert not any(gold in row["messages"] for row in rows)
    assert {
        json.loads(row["messages"])[0]["content"] for row in rows if row["setting"] == "sa"
    } == {"How many?\nThink step by step, then end with 'Final Answer: <number>'."}
    sent = [request.body["messages"] for request in server.requests if "messages" in request.body]
    assert {json.dumps(m, ensure_ascii=False) for m in sent} == {row["messages"] for row in rows}


def test_a_repeated_or_killed_evaluation_gives_the_same_table(
    server: OpenAIServer, questions: Path, tmp_path: Path
) -> None:
    words = ["--questions", questions, "--split", "train", "--settings", "sa+mv,ma,debate",
             "--seeds", 2]  # fmt: skip
    first, _ = malt(server, *words, "--out", tmp_path / "a")
    server.fail_every, server.faults = 7, ("400",)
    malt(server, *words, "--out", tmp_path / "b", code=1)
    server.fail_every = 0
    asked = len(server.requests)
    second, _ = malt(server, *words, "--out", tmp_path / "b")
    assert 0 < len(server.requests) - asked < asked
    assert timeless(second["settings"]) == timeless(first["settings"])
    assert second["played"] < second["units"]
    frames = [
        pl.read_parquet(tmp_path / name / "predictions.parquet").drop("seconds") for name in "ab"
    ]
    assert frames[0].equals(frames[1])
    asked = len(server.requests)
    third, _ = malt(server, *words, "--out", tmp_path / "b")
    assert (third["played"], len(server.requests)) == (0, asked)


def test_questions_that_were_trained_on_are_refused(
    server: OpenAIServer, questions: Path, team: Path, tmp_path: Path
) -> None:
    from malt_data.schemas.ids import question_id

    seen = question_id("What is 4 + -1?", None)
    for name in ("g", "v", "r"):
        (tmp_path / name).mkdir()
    (tmp_path / "v" / "questions.txt").write_text(f"{seen}\n")
    words = ["--questions", questions, "--split", "train", "--settings", "malt", "--seeds", 1,
             "--team", team, "--out", tmp_path / "out"]  # fmt: skip
    for stage in ("g-sft", "v-sft", "r-sft"):
        (tmp_path / stage).mkdir()
    _, message = malt(server, *words, code=1)
    assert "1 of the 12 questions are in the team's training data" in message
    assert seen in message
    assert not server.requests
    facts, message = malt(server, *words, "--allow-seen")
    assert facts["played"] == 12
    assert json.loads((tmp_path / "out" / "eval.json").read_text())["seen"] == 1
    assert "10 adapters (e.g. " in message  # only v says what it was trained on


def test_invalid_requests_are_clear_errors(
    server: OpenAIServer, questions: Path, tmp_path: Path
) -> None:
    common = ["--questions", questions, "--split", "train", "--seeds", 1, "--out", tmp_path / "out"]
    _, message = malt(server, *common, "--settings", "malt", code=1)
    assert "needs the team adapters" in message
    _, message = malt(server, *common, "--settings", "moa", code=2)
    assert "Unknown setting 'moa'" in message
    _, message = malt(server, *common, "--settings", "sa,ma", "--against", "sa+mv", code=1)
    assert "sa+mv was not evaluated. Choose from sa, ma" in message
    assert not server.requests
    malt(server, *common, "--settings", "sa")
    _, message = malt(server, *common, "--settings", "sa", "--temperature", "0.9", code=1)
    assert "a different temperature (0.3, now 0.9)" in message
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    _, message = malt(server, *common[:-1], tmp_path / "thesis", "--settings", "sa", code=1)
    assert "contains other files" in message


def test_compare_on_hand_made_data() -> None:
    rows = [
        {"setting": name, "seed": seed, "question_id": str(q), "correct": right}
        for seed in range(2)
        for q in range(30)
        for name, right in (("a", q % 3 > 0), ("b", q % 3 == 1), ("c", q % 3 > 0))
    ]
    frame = pl.DataFrame(rows)
    better = compare(frame, "a", "b")
    assert better is not None
    assert better["behind"] == pytest.approx(1 / 3)
    assert better["p"] == 2 / 2**10  # ten questions differ, all one way
    assert compare(frame, "a", "c") == {"behind": 0.0, "p": 1.0}
    assert compare(frame, "a", "d") is None


def test_ask_answers_turn_by_turn(server: OpenAIServer, team: Path) -> None:
    command = ["ask", "What is 1 + 2?", "--team", str(team),
               "--engine", "openai", "--base-url", server.base_url]  # fmt: skip
    run = run_malt(*command, "--json")
    assert run.returncode == 0, run.stderr
    facts = json.loads(run.stdout)
    assert len(facts["turns"]) == 9
    assert len(facts["votes"]) == 3
    assert {request.body["model"] for request in server.requests if request.body} == {"g", "v", "r"}
    run = run_malt(*command)
    assert run.stdout.count("refiner") == 3
    assert run.stdout.splitlines()[-1].startswith("Answer: ")
    asked = len(server.requests)
    command[command.index("--team") : command.index("--team") + 2] = ["--setting", "malt"]
    run = run_malt(*command)
    assert (run.returncode, len(server.requests)) == (1, asked)
    assert "needs the team adapters" in run.stderr


def test_ask_uses_choices_or_the_kind_that_the_team_was_trained_for(
    server: OpenAIServer, tmp_path: Path
) -> None:
    server.answer = lambda messages, seed, sample: "Final Answer: (B)"
    team = tmp_path / "team.toml"
    team.write_text('model = "m"\n[sampling]\nkind = "math"\ngrader = "auto"\n')
    engine = ["--engine", "openai", "--base-url", server.base_url, "--team", team]

    def ask(*words: object) -> tuple[Any, str]:
        run = run_malt("ask", *words, *engine, "--json")
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout), server.requests[-1].body["messages"][-1]["content"]

    message, prompt = ask(
        "Who barks?", "--choice", "a cat", "--choice", "a dog", "--setting", "sa+mv"
    )
    assert (message["answer"], message["votes"]) == ("(B)", ["(B)"] * 3)
    assert "A. a cat\nB. a dog" in prompt
    _, prompt = ask("What is 1 + 1?", "--setting", "sa")
    assert "<expression>" in prompt
    _, prompt = ask("What is 1 + 1?", "--setting", "sa", "--grader", "numeric")
    assert "<number>" in prompt
