"""`malt-data build` with a plan, a budget and adaptive trees, against a server."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from openai_server import OpenAIServer
from shell import malt
from terminal import on_terminal

QUESTIONS = 30


def answer(messages: list[dict[str, str]], seed: int | None, sample: int) -> str:
    return f"Final Answer: {7 if (seed or 0) % 5 + sample < 3 else 8}"


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    path = tmp_path_factory.mktemp("asked") / "sevens.jsonl"
    rows = ({"question": f"What is {i} less {i - 7}?", "answer": "7"} for i in range(QUESTIONS))
    path.write_text("\n".join(map(json.dumps, rows)))
    with OpenAIServer(answer, models=("m",)) as server:
        engine = ["--engine", "openai", "--base-url", server.base_url, "--model", "m"]
        yield ["build", "--questions", str(path), *engine, "--n", "2"]


def facts(*words: str, cwd: Path) -> Any:
    run = malt(*words, "--json", cwd=cwd)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_plan_grows_twenty_trees_and_fits_a_terminal(asked: list[str], tmp_path: Path) -> None:
    run = malt(*asked, "--plan", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "From 20 of 30 trees" in run.stdout
    assert max(map(len, run.stdout.splitlines())) <= 80
    for name in ("completions", "generator positives", "refiner pairs", "per 1,000 tokens"):
        assert name in run.stdout
    assert "To grow the other 10 trees, run it with --questions" in run.stderr
    assert facts("stats", cwd=tmp_path)["forest"]["trees"] == 20
    again = facts(*asked, "--plan", cwd=tmp_path)
    assert (again["pilot_trees"], again["trees_left"]) == (20, 10)
    assert facts(*asked, cwd=tmp_path)["grown"] == 10


def test_a_plan_and_a_dry_run_are_not_given_together(asked: list[str], tmp_path: Path) -> None:
    run = malt(*asked, "--plan", "--dry-run", cwd=tmp_path)
    assert run.returncode == 2
    assert "pass one of them" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_budget_ends_a_build_with_success(asked: list[str], tmp_path: Path) -> None:
    whole = facts(*asked, "--out", "whole", cwd=tmp_path)
    most = (whole["prompt_tokens"] + whole["completion_tokens"]) // 2
    run = malt(*asked, "--max-tokens-total", str(most), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "Stopped at --max-tokens-total" in run.stderr
    stopped = facts(*asked, "--max-tokens-total", str(most), cwd=tmp_path)
    assert (stopped["grown"], stopped["stopped"]) == (0, "max_tokens_total")
    assert 10 < stopped["before"] < 20
    rest = facts(*asked, cwd=tmp_path)
    assert rest["grown"] == QUESTIONS - stopped["before"]
    roles = facts("stats", cwd=tmp_path)["roles"]
    assert rest["earlier"]["trees"] == stopped["before"]
    for name, column in ("pairs", "usable_pairs"), ("completion_tokens", "completion_tokens"):
        assert rest["earlier"][name] + rest[name] == sum(row[column] for row in roles)


def test_a_budget_in_a_config_file_is_no_part_of_the_forest(
    asked: list[str], tmp_path: Path
) -> None:
    (tmp_path / "few.toml").write_text("max_hours = 1e-9\n")
    report = facts(*asked, "--config", "few.toml", cwd=tmp_path)
    assert (report["grown"], report["stopped"]) == (0, "max_hours")
    assert facts(*asked, cwd=tmp_path)["grown"] == QUESTIONS


def test_adaptive_trees_from_the_command_line(asked: list[str], tmp_path: Path) -> None:
    plan = malt(*asked, "--adaptive", "--plan", "--out", "planned", cwd=tmp_path)
    assert plan.returncode == 0, plan.stderr
    assert "refiner pairs" in plan.stdout
    assert "another branching" not in plan.stdout
    dry = facts(*asked, "--adaptive", "--dry-run", cwd=tmp_path)
    report = facts(*asked, "--adaptive", cwd=tmp_path)
    assert dry["completions"] < report["completions"] <= dry["completions_at_most"]
    shown = malt("stats", cwd=tmp_path).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "nodes were added where a label was lacking" in shown
    assert malt("verify", cwd=tmp_path).returncode == 0
    exported = facts("export", "--role", "refiner", "--format", "dpo", cwd=tmp_path)
    assert sum(exported["refiner_dpo"]["rows"].values()) > 0
    assert facts(*asked, cwd=tmp_path)["grown"] == 0  # resumed as what it is


def test_the_last_frame_has_the_pairs_of_the_forest(tmp_path: Path) -> None:
    def slowly(messages: list[dict[str, str]], seed: int | None, sample: int) -> str:
        time.sleep(0.02)
        return answer(messages, seed, sample)

    rows = ({"question": f"What is {i} less {i - 7}?", "answer": "7"} for i in range(10))
    (tmp_path / "sevens.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with OpenAIServer(slowly, models=("m",)) as server:
        engine = ["--engine", "openai", "--base-url", server.base_url, "--model", "m"]
        words = ["build", "--questions", "sevens.jsonl", "--n", "2", *engine]
        shown = on_terminal(words, tmp_path)
    assert shown.returncode == 0
    lines = [line.rstrip() for line in re.split("[\r\n]", click.unstyle(shown.text))]
    frames = [line for line in lines if "pairs" in line]
    pairs = sum(row["usable_pairs"] for row in facts("stats", cwd=tmp_path)["roles"])
    assert re.fullmatch(
        rf"10/10 trees ━+ 100 %  .*completions/s  ETA 0:00  \d+ tokens  {pairs} pairs", frames[-1]
    )
    assert max(map(len, frames)) <= 79
