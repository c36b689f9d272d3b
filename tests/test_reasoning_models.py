"""A reasoning model end to end: its thoughts are stored, and nobody else sees them."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from builders.test_build import answer as plain_answer
from builders.test_build import build_command, node_rows, write_questions
from openai_server import OpenAIServer, Reply
from shell import malt

from malt_data import open_results

pytestmark = pytest.mark.slow

THOUGHT = "hmm"
"""Only ever in thoughts."""


def answer(messages: list[dict[str, str]], seed: int | None, sample: int) -> Reply:
    """Think in one of seven forms, then answer as `test_build.answer` does."""
    said = plain_answer(messages, seed, sample).text or ""
    key = json.dumps([messages, seed, sample, "form"]).encode()
    thought = f"{THOUGHT}, what is Final Answer: 0?"
    return (
        Reply(said, "stop", {"reasoning_content": thought}),
        Reply(said, "stop", {"reasoning": thought}),
        Reply(f"<think>\n{thought}\n</think>\n\n{said}"),
        Reply(f"{thought}\n</think>\n{said}"),
        Reply(f"<think>{thought}", "length"),
        Reply(None, "length", {"reasoning_content": thought}),
        Reply(said),
    )[hashlib.sha256(key).digest()[0] % 7]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("thoughts")
    questions = write_questions(folder / "q.jsonl", 8)
    config = folder / "c.toml"
    config.write_text(
        "temperature = 0.6\n[sampling]\ntop_p = 0.95\n[chat_template]\nenable_thinking = true\n"
    )
    with OpenAIServer(models=("m",), answer=answer) as server:
        run = malt(*build_command(server, questions, folder / "forest", "--config", config))
        assert run.returncode == 0, run.stderr
        return folder / "forest", list(server.bodies)


def test_no_thought_is_in_a_prompt_a_text_or_an_answer(
    grown: tuple[Path, list[dict[str, Any]]],
) -> None:
    forest, bodies = grown
    rows = node_rows(forest)
    thoughtful = [row for row in rows if row["thinking"] is not None]
    assert len(rows) == 8 * 39
    assert 0.6 < len(thoughtful) / len(rows) < 0.95
    assert all(THOUGHT in row["thinking"] for row in thoughtful)
    assert all("think>" not in row["thinking"] for row in thoughtful)
    for row in rows:
        assert THOUGHT not in row["text"]
        assert "think>" not in row["text"]
        assert row["answer"] != "0"
        assert (row["text"] == "") == (row["finish_reason"] == "length" and bool(row["thinking"]))
    assert not [body for body in bodies if THOUGHT in json.dumps(body["messages"])]
    assert {body["top_p"] for body in bodies} == {0.95}
    assert [body["chat_template_kwargs"] for body in bodies[:1]] == [{"enable_thinking": True}]


def test_the_text_that_follows_a_thought_is_kept_to_the_letter(
    grown: tuple[Path, list[dict[str, Any]]],
) -> None:
    texts = {row["text"] for row in node_rows(grown[0]) if row["thinking"]}
    assert any(re.fullmatch(r"\d+ plus \d+ is easy\.\nFinal Answer: \d+", text) for text in texts)


def test_no_thought_is_in_a_training_row_unless_asked_for(
    grown: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    config = tmp_path / "thinking.toml"
    config.write_text("thinking = true\n")
    names = ["generator_sft", "verifier_dpo", "refiner_kto", "trajectory"]
    for more, thoughts in (((), False), (("--config", config), True)):
        out = tmp_path / f"export-{thoughts}"
        for name in names:
            role, _, form = name.rpartition("_")
            which = [*(("--role", role) if role else ()), "--format", form]
            run = malt("export", grown[0], *which, "--out", out / name, *more)
            assert run.returncode == 0, run.stderr
        rows = [
            json.dumps(row, default=str)
            for path in out.rglob("*.parquet")
            for row in pq.read_table(path).to_pylist()
        ]
        assert rows
        assert any(THOUGHT in row for row in rows) == thoughts
        assert not [row for row in rows if THOUGHT in json.dumps(json.loads(row)["prompt"])]


def test_a_forest_with_other_sampling_is_not_continued(
    grown: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[sampling]\ntop_p = 0.9\n")
    run = malt("build", "--out", grown[0], "--config", config, "--dry-run")
    assert run.returncode == 1
    assert "sampling" in run.stderr
    config.write_text("[engine]\ntimeout_s = 9\n")
    run = malt("build", "--out", grown[0], "--config", config, "--dry-run", "--json")
    assert json.loads(run.stdout)["trees_to_grow"] == 0  # how long to wait changes no sample


def test_an_evaluation_stores_thoughts_and_shows_them_to_nobody(tmp_path: Path) -> None:
    questions = write_questions(tmp_path / "q.jsonl", 6)
    with OpenAIServer(models=("m",), answer=answer) as server:
        options = ["--questions", questions, "--engine", "openai", "--base-url", server.base_url]
        run = malt(
            "eval", *options, "--settings", "ma+mv", "--out", tmp_path / "r", "--split", "train"
        )
        assert run.returncode == 0, run.stderr
        asked = malt(
            "ask",
            "What is 2 plus 3?",
            "--engine",
            "openai",
            "--base-url",
            server.base_url,
            "--json",
        )
        assert not [body for body in server.bodies if THOUGHT in json.dumps(body["messages"])]
    completions = open_results(tmp_path / "r").sql("FROM completions")
    thoughtful = completions.filter(pl.col("thinking").is_not_null())
    assert thoughtful.height > completions.height / 2
    assert thoughtful["thinking"].str.contains(THOUGHT).all()
    assert not completions["text"].str.contains(f"{THOUGHT}|think>").any()
    assert not completions["messages"].str.contains(THOUGHT).any()
    turns = json.loads(asked.stdout)["turns"]
    assert any(THOUGHT in (turn["thinking"] or "") for turn in turns)
    assert not any(THOUGHT in turn["text"] for turn in turns)
