"""Queries, figures and tests on results; and evaluations that are killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from evaluation.harness import answer, malt, timeless, write_questions
from openai_server import OpenAIServer
from rich.console import Console
from shell import malt as run_malt

from malt_data import open_results
from malt_data.errors import EvalError, QueryError
from malt_data.evaluation.parts import CompletionParts
from malt_data.evaluation.tables import accuracy_table, compare
from malt_data.report.tables import readable
from malt_data.report.terminal import print_rows

SETTINGS = "sa,sa+mv,ma,ma+mv,debate,pair"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    questions = write_questions(folder / "q.jsonl")
    own = folder / "own.toml"
    own.write_text('[pair]\nturns = ["generator", "verifier"]\n')
    with OpenAIServer(answer, models=()) as server:
        facts, message = malt(server, "--questions", questions, "--split", "train", "--seeds", 3,
                           "--settings", SETTINGS, "--settings-file", own, "--against", "ma+mv",
                           "--figures", "--out", folder / "out")  # fmt: skip
    assert message.count("Wrote ") == 5
    predictions = open_results(folder / "out").predictions()
    for row in facts["settings"]:
        if row["setting"] == "ma+mv":
            assert row["p"] is row["p_holm"] is None
        else:
            test = compare(predictions, "ma+mv", row["setting"])
            assert {"behind": row["behind"], "p": row["p"]} == test
    return folder / "out"


def test_the_table_fits_a_terminal_of_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"setting": name, "seeds": 4, "teams": 1, "mean": 0.58407, "std": 0.01234,
             "low": 0.5222, "high": 0.65, "unanswered": 0.053,
             "prompt_tokens": 1044.1, "completion_tokens": 10.6, "seconds": 1394.6,
             "behind": -0.0664, "p": 0.0059, "p_holm": 0.0118}
            for name in ("sa", "malt-base-g+mv", "star-ma+mv")]  # fmt: skip
    print_rows(pl.DataFrame(readable(rows, wide=False)), Console(width=80))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines[-3:]] == [
        [name, "58.41", "±1.23", "52.2-65.0", "5.3", "1055", "-6.6", "0.0059", "0.0118"]
        for name in ("sa", "malt-base-g+mv", "star-ma+mv")
    ]
    (one,) = readable([rows[0] | {"seeds": 1, "std": 0.0}])
    assert one["accuracy, %"] == "58.41"


def passes(out: Path) -> dict[Any, list[dict[str, Any]]]:
    found: dict[Any, list[dict[str, Any]]] = {}
    for row in pl.read_parquet(out / "completions" / "*.parquet").sort("turn").to_dicts():
        key = row["setting"], row["seed"], row["question_id"], row["pass"]
        found.setdefault(key, []).append(row)
    return found


def shown(rows: list[dict[str, Any]]) -> list[bool]:
    """Return after each turn whether the pass would be right if it ended there."""
    right: list[bool] = []
    for row in rows:
        keeps = row["role"] == "verifier" and row["answer"] is None
        right.append(right[-1] if keeps else row["answer"] == "3")
    return right


def test_the_verdict_of_a_completion_follows_from_its_answer(out: Path) -> None:
    for rows in passes(out).values():
        for row in rows:
            assert row["correct"] is (row["answer"] == "3")
            assert row["verdict"] == (
                "unanswered" if row["answer"] is None else "right" if row["correct"] else "wrong"
            )


def test_accuracy_by_turn_and_flips_match_the_completions(out: Path) -> None:
    results = open_results(out)
    by_turn: dict[Any, list[bool]] = {}
    flips: dict[str, list[tuple[bool, bool]]] = {}
    for (setting, *_), turns in passes(out).items():
        right = shown(turns)
        for turn, correct in enumerate(right):
            by_turn.setdefault((setting, turn), []).append(correct)
        if len(right) > 1:
            flips.setdefault(setting, []).append((right[0], right[-1]))
    found = {(r["setting"], r["turn"]): r for r in results.sql("FROM turn_accuracy").to_dicts()}
    assert found.keys() == by_turn.keys()
    for key, right in by_turn.items():
        assert found[key]["passes"] == len(right)
        assert found[key]["accuracy"] == pytest.approx(sum(right) / len(right))
    rows = {row["setting"]: row for row in results.sql("FROM flips WHERE base IS NULL").to_dicts()}
    assert rows.keys() == flips.keys() == {"ma", "ma+mv", "debate", "pair"}
    for setting, ends in flips.items():
        fixed = sum(not first and last for first, last in ends) / len(ends)
        broken = sum(first and not last for first, last in ends) / len(ends)
        assert rows[setting]["wrong_to_right"] == pytest.approx(fixed)
        assert rows[setting]["right_to_wrong"] == pytest.approx(broken)


def test_accuracy_and_cost_in_sql_match_the_table(out: Path) -> None:
    query = "SELECT setting, accuracy, seconds, prompt_tokens FROM accuracy ORDER BY setting"
    run = run_malt("sql", out, query, "--json")
    assert run.returncode == 0, run.stderr
    completions = pl.read_parquet(out / "completions" / "*.parquet")
    predictions = open_results(out).predictions()
    shown = {row["setting"]: row for row in accuracy_table(open_results(out))}
    for row in json.loads(run.stdout):
        assert row["accuracy"] == pytest.approx(shown[row["setting"]]["mean"])
        assert row["seconds"] == pytest.approx(shown[row["setting"]]["seconds"])
        mine = predictions.filter(pl.col("setting") == row["setting"])
        assert row["accuracy"] == pytest.approx((mine["answer"] == "3").fill_null(False).mean())
        asked = completions.filter(pl.col("setting") == row["setting"])
        assert row["prompt_tokens"] == pytest.approx(asked["prompt_tokens"].sum() / mine.height)
        keys = ["seed", "question_id"]
        if row["setting"] == "debate":
            ends = asked.group_by(*keys, "turn").agg(pl.max("latency"))
            took = ends.group_by(keys).agg(pl.sum("latency"))
        else:
            ends = asked.group_by(*keys, "pass").agg(pl.sum("latency"))
            took = ends.group_by(keys).agg(pl.max("latency"))
        assert row["seconds"] == pytest.approx(took["latency"].mean())


@pytest.mark.parametrize("baseline", ["sa", "pair"])
def test_cost_ratios_are_relative_to_the_single_agent_or_the_cheapest(
    out: Path, tmp_path: Path, baseline: str
) -> None:
    shutil.copytree(out, tmp_path / "out")
    if baseline != "sa":  # of what is left, two agents are the cheapest
        for path in [
            tmp_path / "out" / "predictions.parquet",
            *(tmp_path / "out").glob("c*/*.parquet"),
        ]:
            table = pq.read_table(path)
            pq.write_table(table.filter(pc.field("setting") != "sa"), path)
    results = open_results(tmp_path / "out")
    rows = {row["setting"]: row for row in results.sql("FROM cost").to_dicts()}
    units = results.predictions().group_by("setting").agg(pl.len())
    asked = pl.read_parquet(tmp_path / "out" / "completions" / "*.parquet")
    assert set(rows) == set(SETTINGS.split(",")) - ({"sa"} - {baseline})
    tokens = asked.group_by("setting").agg(pl.len(), pl.sum("prompt_tokens", "completion_tokens"))
    sums = {row["setting"]: row for row in tokens.to_dicts()}
    base = sums[baseline]
    assert len(set(units["len"])) == 1
    for name, row in rows.items():
        assert row["baseline"] == baseline
        assert row["completions"] == {"sa": 1, "pair": 2, "ma": 3, "sa+mv": 3}.get(name, 9)
        both = [side["prompt_tokens"] + side["completion_tokens"] for side in (sums[name], base)]
        assert row["tokens_ratio"] == pytest.approx(both[0] / both[1])
        assert row["completions_ratio"] == pytest.approx(sums[name]["len"] / base["len"])
        for column in ("prompt_tokens", "completion_tokens"):
            assert row[f"{column}_ratio"] == pytest.approx(sums[name][column] / base[column])
        assert row["seconds_ratio"] == pytest.approx(row["seconds"] / rows[baseline]["seconds"])


def test_sql_on_results_is_read_only(out: Path) -> None:
    results = open_results(out)
    with pytest.raises(QueryError, match="can only read"):
        results.sql("SELECT * FROM read_csv('/etc/passwd')")
    with pytest.raises(QueryError, match="ballots, turn_accuracy, flips, votes, verdicts"):
        results.sql("FROM nodes")


def test_figures_are_complete_and_reproducible(out: Path, tmp_path: Path) -> None:
    from malt_data.report.figures import write_figures

    again = write_figures(open_results(out), tmp_path)
    assert [path.name for path in again] == [
        "turns.svg",
        "flips.svg",
        "against.svg",
        "votes.svg",
        "cost.svg",
    ]
    for path in again:
        assert ET.parse(path).getroot().tag.endswith("svg")
        assert path.read_bytes() == (out / "figures" / path.name).read_bytes()


def test_a_killed_merge_duplicates_nothing(out: Path) -> None:
    parts = CompletionParts(out)
    (whole,) = parts.paths()
    before = open_results(out).sql("SELECT count(*) AS n FROM completions")
    table = pq.read_table(whole)
    parts.write(table.slice(0, 9))
    parts.write(table.slice(9))
    whole.unlink()
    halves = parts.paths()
    kept = {path: path.read_bytes() for path in halves}
    parts.write(table, halves)
    for path, content in kept.items():
        path.write_bytes(content)  # as if the kill had come before they were removed
    assert open_results(out).sql("SELECT count(*) AS n FROM completions").equals(before)
    parts.compact()
    assert len(list((out / "completions").glob("*.parquet"))) == 1
    assert open_results(out).sql("SELECT count(*) AS n FROM completions").equals(before)


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="is not an evaluation"):
        open_results(tmp_path)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer, models=()) as server:
        yield server


def start(
    server: OpenAIServer, words: list[object], change: str = "e._FLUSH_SECONDS = 0"
) -> "subprocess.Popen[str]":
    """Start an evaluation that writes every unit at once, not every few seconds."""
    code = (
        "import os; from malt_data.cli import main; "
        f"from malt_data.evaluation import evaluate as e, plan as p; {change}; main()"
    )
    engine = ["--engine", "openai", "--base-url", server.base_url, "--model", "m"]
    command = [sys.executable, "-c", code, "eval", *engine, *map(str, words), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_evaluation_resumes_to_the_same_table(
    server: OpenAIServer, tmp_path: Path
) -> None:
    words: list[object] = ["--questions", write_questions(tmp_path / "q.jsonl"), "--split", "train",
                           "--settings", "sa+mv,ma,debate", "--seeds", 4,
                           "--concurrency", 8]  # fmt: skip
    whole, _ = malt(server, *words, "--out", tmp_path / "a")
    recompute_run(tmp_path / "a")
    server.delay = 0.02
    for end, parts in ((signal.SIGKILL, 5), (signal.SIGINT, 10)):
        running = start(server, [*words, "--out", tmp_path / "b"])
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "b" / "completions").glob("*.parquet"))) < parts:
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(running.pid, end)
        running.communicate()
    server.delay = 0
    rest, _ = malt(server, *words, "--out", tmp_path / "b")
    assert 0 < rest["played"] < rest["units"]
    assert timeless(rest["settings"]) == timeless(whole["settings"])
    killed, stopped, last = open_results(tmp_path / "b").manifest["runs"]
    assert "seconds" not in killed
    assert stopped["units"] > 0 < stopped["seconds"]
    assert (last["units"], last["failed"]) == (rest["played"], 0)
    assert killed["packages"] == stopped["packages"] == last["packages"]


def recompute_run(out: Path) -> None:
    """Check the record of the one run that made `out` against the distinct completions."""
    (run,) = open_results(out).manifest["runs"]
    asked = ["seed", "question_id", "adapter", "messages", "sampling_seed"]
    rows = pl.read_parquet(out / "completions" / "*.parquet").unique(asked)
    assert run["completions"] == rows.height
    for name in ("prompt_tokens", "completion_tokens"):
        assert run[name] == rows[name].sum()
    assert run["units"] == open_results(out).predictions().height
    speed = run["completion_tokens"] / run["seconds"]
    assert run["tokens_per_second"] == pytest.approx(speed, rel=0.01)
    assert run["peak_memory"] > 10 * 2**20
    assert run["started"] > "2026"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["--json", "--markdown", "--figures"])
def test_an_evaluation_whose_questions_all_fail_can_be_resumed(
    server: OpenAIServer, tmp_path: Path, form: str
) -> None:
    words: list[object] = ["--questions", write_questions(tmp_path / "q.jsonl"), "--split", "train",
                           "--settings", "sa", "--seeds", 1, "--out", tmp_path / "out"]  # fmt: skip
    command = ["eval", "--engine", "openai", "--model", "m", "--base-url", server.base_url]
    server.fail_every, server.faults = 1, ("400",)
    run = run_malt(*command, *words, form)
    server.fail_every = 0
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert "12 questions failed" in run.stderr
    facts, _ = malt(server, *words)
    assert facts["played"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("step", ["write_text", "write_table"])
def test_an_evaluation_killed_before_the_first_answer_restarts(
    server: OpenAIServer, tmp_path: Path, step: str
) -> None:
    words: list[object] = ["--questions", write_questions(tmp_path / "q.jsonl"), "--split", "train",
                           "--settings", "sa", "--seeds", 1, "--out", tmp_path / "out"]  # fmt: skip
    killed = start(server, words, f"p.{step} = lambda *_: os._exit(9)")
    assert (killed.communicate()[0], killed.returncode) == ("", 9)
    facts, _ = malt(server, *words)
    assert facts["played"] == facts["units"] == 12


@pytest.mark.slow
def test_concurrent_evaluations_do_not_mix(server: OpenAIServer, tmp_path: Path) -> None:
    words: list[object] = ["--questions", write_questions(tmp_path / "q.jsonl"), "--split", "train",
                           "--seeds", 1, "--out", tmp_path / "out"]  # fmt: skip
    server.delay = 0.1
    both = [start(server, [*words, "--settings", name]) for name in ("sa", "ma")]
    ends = [(run.communicate(timeout=120), run.returncode) for run in both]
    assert all(code == 0 or "another evaluation" in message for (_, message), code in ends)
    server.delay = 0
    facts, _ = malt(server, *words, "--settings", "sa,ma")
    assert [row["questions"] for row in facts["settings"]] == [12, 12]


def test_a_dry_run_counts_and_writes_nothing(server: OpenAIServer, tmp_path: Path) -> None:
    words: list[object] = ["--questions", write_questions(tmp_path / "q.jsonl"), "--split", "train",
                           "--seeds", 2, "--settings", "sa,ma+mv,debate"]  # fmt: skip
    facts, _ = malt(server, *words, "--out", tmp_path / "out", "--dry-run")
    assert (facts["units"], facts["missing"]) == (72, 72)
    assert facts["completions"] == 24 * (1 + 9 + 9)
    assert not server.requests
    assert not (tmp_path / "out").exists()
