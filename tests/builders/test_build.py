"""Builds against real servers over real sockets, recomputed by independent code."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from openai_server import Fault, OpenAIServer, Reply
from shell import malt

from malt_data.schemas.ids import child_id, node_seed, question_id

pytestmark = pytest.mark.slow

MALT = [sys.executable, "-m", "malt_data"]


def answer(messages: list[dict[str, str]], seed: int | None, sample: int) -> Reply:
    """Answer right, wrong, not at all or truncated, depending only on the prompt and the seed."""
    key = json.dumps([messages, seed, sample]).encode()
    die = hashlib.sha256(key).digest()[0]
    a, b = map(int, re.findall(r"(\d+) plus (\d+)", messages[-1]["content"])[0])
    if die % 11 == 0:
        return Reply("I do not know.")
    if die % 7 == 0:
        return Reply(f"Let me see: {a} and", finish_reason="length")
    return Reply(f"{a} plus {b} is easy.\nFinal Answer: {a + b + (die % 2)}")


def write_questions(path: Path, count: int) -> Path:
    rows = [
        {"question": f"What is {i} plus {i + 3}?", "answer": f"#### {2 * i + 3}"}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def build_command(server: OpenAIServer, questions: Path, out: Path, *more: object) -> list[object]:
    return [
        "build", "--questions", questions, "--engine", "openai", "--model", "m",
        "--base-url", server.base_url, "--out", out, *more,
    ]  # fmt: skip


def node_rows(forest: Path) -> list[dict[str, Any]]:
    """Read the parts without using malt_data."""
    return [
        row
        for path in sorted(forest.glob("nodes/part-*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


def recompute(
    forest: Path,
    n: tuple[int, ...],
    count: int,
    roles: tuple[str, ...] = ("generator", "verifier", "refiner"),
) -> Counter[str]:
    """Check every id, count, reward, value and label of `forest` with independent code."""
    golds = {
        row["question_id"]: row["gold"]
        for row in pq.read_table(forest / "questions.parquet").to_pylist()
    }
    assert len(golds) == count
    rows = node_rows(forest)
    assert len(rows) == count * sum(prod(n[:depth]) for depth in range(1, len(n) + 1))
    by_id = {row["node_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    children: dict[str, list[dict[str, Any]]] = defaultdict(list)
    labels: Counter[str] = Counter()
    for row in rows:
        children[row["parent_id"] or row["question_id"]].append(row)
    assert set(children) == set(golds) | {r["node_id"] for r in rows if r["depth"] < len(n)}
    for parent, siblings in children.items():
        depth = parent.count("/")
        assert sorted(row["node_id"] for row in siblings) == sorted(
            f"{parent}/{roles[depth][0]}{i}" for i in range(n[depth])
        )
    for row in sorted(rows, key=lambda row: -row["depth"]):
        assert row["role"] == roles[row["depth"] - 1]
        above = by_id.get(row["parent_id"])
        assert row["parent"] == (above["node"] if above else None)
        assert above is None or above["node"] < row["node"]
        assert row["question_id"] == row["node_id"].partition("/")[0]
        assert row["sample"] == int(re.search(r"\d+$", row["node_id"])[0])  # type: ignore[index]
        match = re.search(r"Final Answer: (\d+)$", row["text"])
        assert row["answer"] == (match[1] if match else None)
        right = bool(match) and match[1] == golds[row["question_id"]]  # type: ignore[index]
        assert row["correct"] is right
        if row["depth"] == len(n):
            assert row["reward"] == float(right)
            row["exact"], row["count"] = Fraction(right), 1
        else:
            below = [by_id[child["node_id"]] for child in children[row["node_id"]]]
            assert row["reward"] is None
            row["exact"] = sum(child["exact"] for child in below) / len(below)
            row["count"] = sum(child["count"] for child in below)
        assert abs(row["value"] - float(row["exact"])) < 1e-12
        assert row["label"] == (row["exact"] > Fraction(1, 2))
        assert row["leaves"] == row["count"]
        assert row["finish_reason"] == ("length" if row["text"].endswith("and") else "stop")
        assert row["model"] == "m"
        labels[f"{row['role']} {row['label']}"] += 1
    return labels


@pytest.mark.parametrize("n", [(2, 2, 2), (3, 3, 3), (2, 3, 1), (1, 2, 4)])
@pytest.mark.parametrize("ignore_n", [False, True])
def test_every_number_in_a_forest_can_be_recomputed(
    tmp_path: Path, n: tuple[int, int, int], ignore_n: bool
) -> None:
    with OpenAIServer(models=("m",), answer=answer, ignore_n=ignore_n) as server:
        branching = ["--n", n[0], "--n-verifier", n[1], "--n-refiner", n[2]]
        run = malt(
            *build_command(
                server, write_questions(tmp_path / "q.jsonl", 12), tmp_path / "f", *branching
            )
        )
        assert run.returncode == 0, run.stderr
    labels = recompute(tmp_path / "f", n, 12)
    assert len(labels) >= 5  # both labels in (nearly) every role, else this proves nothing
    check = malt("verify", tmp_path / "f")
    assert check.returncode == 0, check.stdout


@pytest.mark.parametrize("fault", ["500", "429", "close"])
def test_failing_every_fifth_request_does_not_change_the_forest(tmp_path: Path, fault: str) -> None:
    questions = write_questions(tmp_path / "q.jsonl", 8)
    with OpenAIServer(models=("m",), answer=answer) as server:
        assert malt(*build_command(server, questions, tmp_path / "calm", "--n", 2)).returncode == 0
    with OpenAIServer(models=("m",), answer=answer, fail_every=5, faults=(fault,)) as server:
        run = malt(*build_command(server, questions, tmp_path / "rough", "--n", 2))
        assert run.returncode == 0, run.stderr
    recompute(tmp_path / "rough", (2, 2, 2), 8)
    volatile = {"latency"}
    calm, rough = (
        {
            r["node_id"]: {k: v for k, v in r.items() if k not in volatile}
            for r in node_rows(tmp_path / name)
        }
        for name in ("calm", "rough")
    )
    assert calm == rough


def test_children_start_before_their_parents_siblings_complete(tmp_path: Path) -> None:
    """No barrier between levels: while one answer is slow, the other is verified and refined."""
    questions = write_questions(tmp_path / "q.jsonl", 1)
    slow = node_seed(0, child_id(question_id("What is 0 plus 3?", None), "generator", 1))

    def delay(body: dict[str, Any]) -> float:
        return 1.0 if body["seed"] == slow else 0.0

    with OpenAIServer(models=("m",), answer=answer, ignore_n=True, delay=delay) as server:
        run = malt(*build_command(server, questions, tmp_path / "f", "--n", 2))
        assert run.returncode == 0, run.stderr
        arrivals = [request.at for request in server.requests]
    recompute(tmp_path / "f", (2, 2, 2), 1)
    assert sum(t < arrivals[0] + 0.9 for t in arrivals) >= 1 + 2 + 4


def requests_by_question(server: OpenAIServer) -> Counter[str]:
    """Count the requests that the server received per question."""
    return Counter(
        re.search(r"What is \d+ plus \d+", request.body["messages"][-1]["content"])[0]  # type: ignore[index]
        for request in server.requests
    )


def finished_questions(forest: Path) -> set[str]:
    texts = {
        row["question_id"]: row["question"].rstrip("?")
        for row in pq.read_table(forest / "questions.parquet").to_pylist()
    }
    return {texts[row["question_id"]] for row in node_rows(forest)}


def has_grown(forest: Path, before: int) -> bool:
    return any(forest.glob("nodes/part-*")) and len(finished_questions(forest)) > before


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def test_a_build_killed_three_times_can_be_completed(tmp_path: Path) -> None:
    questions, out = write_questions(tmp_path / "q.jsonl", 40), tmp_path / "f"
    with OpenAIServer(models=("m",), answer=answer, delay=0.15) as server:
        command = [
            *MALT,
            *map(str, build_command(server, questions, out, "--n", 2, "--concurrency", 8)),
        ]
        for kill in range(3):
            before = len(finished_questions(out)) if kill else 0
            child = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            wait_for(lambda before=before: has_grown(out, before))
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        kept = finished_questions(out)
        assert 3 <= len(kept) < 40
        server.requests.clear()
        run = malt(*command[3:])
        assert run.returncode == 0, run.stderr
        assert not kept & set(requests_by_question(server))  # no finished tree is sampled again
        recompute(out, (2, 2, 2), 40)
        server.requests.clear()
        rerun = malt(*command[3:], "--json")
        assert rerun.returncode == 0
        assert json.loads(rerun.stdout)["completions"] == 0
        assert server.requests == []
        assert sum(run["trees"] for run in runs(out)) == 40 - len(
            kept
        )  # killed runs leave no record


def test_ctrl_c_keeps_every_finished_tree(tmp_path: Path) -> None:
    questions, out = write_questions(tmp_path / "q.jsonl", 30), tmp_path / "f"
    for signum in (signal.SIGINT, signal.SIGTERM):
        with OpenAIServer(models=("m",), answer=answer, delay=0.05) as server:
            command = [
                *MALT,
                *map(str, build_command(server, questions, out, "--n", 2, "--concurrency", 4)),
            ]
            child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            before = len(finished_questions(out)) if out.exists() else 0
            wait_for(lambda before=before: has_grown(out, before))
            child.send_signal(signum)
            _, stderr = child.communicate(timeout=20)
            assert child.returncode == 1
            assert "Interrupted. Finished trees are kept" in stderr
            assert "Traceback" not in stderr
    assert malt("verify", out).returncode == 0
    first, second = runs(out)
    assert first["started"] <= second["started"]
    assert first["trees"] > 0 < second["trees"]
    assert first["trees"] + second["trees"] == len(finished_questions(out))
    assert first["failed"] == second["failed"] == 0


def test_two_builds_at_once_share_the_work(tmp_path: Path) -> None:
    questions, out = write_questions(tmp_path / "q.jsonl", 24), tmp_path / "f"
    with OpenAIServer(models=("m",), answer=answer, delay=0.02) as server:
        command = [
            *MALT,
            *map(str, build_command(server, questions, out, "--n", 2, "--concurrency", 4)),
        ]
        builds = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        for child in builds:
            _, stderr = child.communicate(timeout=120)
            assert child.returncode == 0, stderr
        assert set(requests_by_question(server).values()) == {
            1 + 2 + 4
        }  # nothing was sampled twice
    recompute(out, (2, 2, 2), 24)
    assert len(runs(out)) == 2
    recompute_runs(out)


def test_shards_are_disjoint_and_complete(tmp_path: Path) -> None:
    questions, out = write_questions(tmp_path / "q.jsonl", 20), tmp_path / "f"
    with OpenAIServer(models=("m",), answer=answer) as server:
        for shard in ("1/3", "2/3", "3/3"):
            run = malt(*build_command(server, questions, out, "--n", 2, "--shard", shard))
            assert run.returncode == 0, run.stderr
        assert set(requests_by_question(server).values()) == {1 + 2 + 4}
    recompute(out, (2, 2, 2), 20)


def runs(forest: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads((forest / "forest.json").read_text())["runs"]
    return records


def recompute_runs(forest: Path) -> None:
    """Check that the runs of `forest`, none of which had failures, add up to its nodes."""
    rows = node_rows(forest)
    for name in ("prompt_tokens", "completion_tokens"):
        assert sum(run[name] for run in runs(forest)) == sum(row[name] for row in rows) > 0
    assert sum(run["completions"] for run in runs(forest)) == len(rows)
    assert sum(run["trees"] for run in runs(forest)) == len({row["question_id"] for row in rows})


def test_a_build_records_its_cost_and_one_with_nothing_to_do_writes_nothing(
    tmp_path: Path,
) -> None:
    questions, out = write_questions(tmp_path / "q.jsonl", 2), tmp_path / "f"
    with OpenAIServer(models=("m",), answer=answer, delay=0.1) as server:
        command = [*build_command(server, questions, out, "--n", 1, "--concurrency", 1), "--json"]
        facts = json.loads(malt(*command).stdout)
        (run,) = runs(out)
        recompute_runs(out)
        assert (run["trees"], run["failed"]) == (2, 0)
        for name in ("completions", "seconds", "tokens_per_second", "peak_memory"):
            assert run[name] == facts[name]
        assert run["seconds"] >= sum(row["latency"] for row in node_rows(out)) >= 6 * 0.1
        speed = run["completion_tokens"] / run["seconds"]
        assert run["tokens_per_second"] == pytest.approx(speed, rel=0.01)
        assert 10 * 2**20 < run["peak_memory"] < 2 * 2**30  # bytes on every platform
        assert (run["cores"], run["gpu"], run["peak_gpu_memory"]) == (os.cpu_count(), None, None)
        before = (out / "forest.json").stat().st_mtime_ns
        assert malt(*command).returncode == 0
        assert (out / "forest.json").stat().st_mtime_ns == before
        assert malt("relabel", out, "--threshold", "0.7").returncode == 0
        assert runs(out) == [run]


def test_a_build_whose_engine_goes_down_records_the_trees_it_added(tmp_path: Path) -> None:
    questions, out = write_questions(tmp_path / "q.jsonl", 4), tmp_path / "f"

    asked = [json.loads(line)["question"] for line in questions.read_text().splitlines()]
    last = max(asked, key=lambda text: question_id(text, None))  # trees are grown in order of id

    def refuse(body: dict[str, Any]) -> Fault | None:
        return Fault(401, "no") if last in body["messages"][-1]["content"] else None

    with OpenAIServer(models=("m",), answer=answer, refuse=refuse) as server:
        command = build_command(server, questions, out, "--n", 1, "--concurrency", 1)
        assert "rejected the API key" in malt(*command).stderr
        server.refuse = lambda body: Fault(401, "no")
        malt(*command)  # adds no tree, so it is not recorded as a run
    (run,) = runs(out)
    assert run["trees"] == len(finished_questions(out)) > 0


@pytest.fixture
def grown(tmp_path: Path) -> Iterator[tuple[OpenAIServer, Path, Path]]:
    questions = write_questions(tmp_path / "q.jsonl", 4)
    with OpenAIServer(models=("m",), answer=answer) as server:
        assert malt(*build_command(server, questions, tmp_path / "f", "--n", 2)).returncode == 0
        yield server, questions, tmp_path / "f"


@pytest.mark.parametrize(
    ("option", "difference"),
    [
        (["--n", "3"], "pipeline is 'generator 2 → verifier 2"),
        (["--temperature", "0.9"], "temperature is 0.3, not 0.9"),
        (["--model", "other"], "model is 'm', not 'other'"),
        (["--seed", "5"], "seed is 0, not 5"),
        (["--max-tokens", "7"], "max_tokens is 1024, not 7"),
    ],
)
def test_different_settings_are_refused(
    grown: tuple[OpenAIServer, Path, Path], option: list[str], difference: str
) -> None:
    server, questions, out = grown
    requests = len(server.requests)
    run = malt(*build_command(server, questions, out, *option))
    assert run.returncode == 1
    assert difference in run.stderr
    assert "--out" in run.stderr
    assert len(server.requests) == requests
    recompute(out, (2, 2, 2), 4)


def test_a_build_without_options_uses_the_forests_settings(
    grown: tuple[OpenAIServer, Path, Path],
) -> None:
    server, questions, out = grown
    write_questions(questions, 9)  # the file has more questions now
    run = malt("build", "--out", out)
    assert run.returncode == 0, run.stderr
    recompute(out, (2, 2, 2), 9)
    assert set(requests_by_question(server).values()) == {1 + 2 + 4}


def test_a_tree_with_a_failed_request_is_not_stored_and_is_grown_by_the_next_run(
    tmp_path: Path,
) -> None:
    questions, out = write_questions(tmp_path / "q.jsonl", 6), tmp_path / "f"

    def refuse(body: dict[str, Any]) -> Fault | None:
        prompt = body["messages"][-1]["content"]
        return Fault(400, "this prompt is refused") if "What is 3 plus" in prompt else None

    with OpenAIServer(models=("m",), answer=answer, refuse=refuse) as server:
        run = malt(*build_command(server, questions, out, "--n", 2))
        assert run.returncode == 1
        assert "1 trees failed" in run.stderr
        assert "this prompt is refused" in run.stderr
        assert finished_questions(out) == {f"What is {i} plus {i + 3}" for i in (0, 1, 2, 4, 5)}
    with OpenAIServer(models=("m",), answer=answer) as server:
        run = malt(*build_command(server, questions, out, "--n", 2))
        assert run.returncode == 0, run.stderr
        assert set(requests_by_question(server)) == {"What is 3 plus 6"}
    recompute(out, (2, 2, 2), 6)


def test_a_dry_run_reports_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    questions, out = write_questions(tmp_path / "q.jsonl", 10), tmp_path / "f"
    with OpenAIServer(models=("m",), answer=answer) as server:
        run = malt(*build_command(server, questions, out, "--n", 3, "--dry-run", "--json"))
        assert server.requests == []
    plan = json.loads(run.stdout)
    assert (plan["trees_to_grow"], plan["requests"], plan["completions"]) == (10, 130, 390)
    assert not out.exists()


def test_hostile_texts_are_stored_unchanged(tmp_path: Path) -> None:
    payload = (
        "\x00\x1b[31m\r\n\t{question} {0} %s \\boxed{ </s> ‮ \U0010ffff 日本語 ```sql DROP```"
        + "x" * 100_000
    )

    def hostile(messages: list[dict[str, str]], seed: int | None, sample: int) -> Reply:
        return Reply(payload + f"\nFinal Answer: {seed}")

    with OpenAIServer(models=("m",), answer=hostile) as server:
        run = malt(
            *build_command(
                server, write_questions(tmp_path / "q.jsonl", 2), tmp_path / "f", "--n", 1
            )
        )
        assert run.returncode == 0, run.stderr
        prompts = [request.body["messages"][-1]["content"] for request in server.requests]
    # Each text is inserted whole into the next prompt, and not expanded again.
    assert {prompt.count(payload) for prompt in prompts} == {0, 1, 2}
    assert all(row["text"].startswith(payload) for row in node_rows(tmp_path / "f"))
    shown = malt("show", tmp_path / "f")
    assert shown.returncode == 0
    assert "\x1b[31m" not in shown.stdout


def test_questions_are_asked_and_graded_as_stored(tmp_path: Path) -> None:
    """A source of kind math with some plain numbers as golds, checked without our graders."""
    golds = {"What is 3 plus 4?": "7", "What is root two?": r"\sqrt2", "What is a half?": "0.5"}
    questions = tmp_path / "q.jsonl"
    lines = [json.dumps({"question": q, "answer": gold}) for q, gold in golds.items()]
    questions.write_text("\n".join(lines))
    answers = ["7", r"$\sqrt{2}$", r"\frac{1}{2}", "8", "x"]

    def answer(messages: list[dict[str, str]], seed: int | None, sample: int) -> str:
        die = hashlib.sha256(json.dumps([messages, seed, sample]).encode()).digest()[0]
        return f"Final Answer: {answers[die % len(answers)]}"

    right = {("7", "7"), (r"\sqrt2", answers[1]), ("0.5", answers[2])}
    out = tmp_path / "f"
    with OpenAIServer(answer=answer, models=["m"]) as server:
        run = malt(*build_command(server, questions, out))
        assert run.returncode == 0, run.stderr
        assert r"asked as math, since not every gold is a number (\sqrt2)" in run.stderr
        prompts = [r.body["messages"][-1]["content"] for r in server.requests if "n" in r.body]
    generator_prompts = [text for text in prompts if "Initial Answer" not in text]
    assert len(generator_prompts) == 3
    assert all("<expression>" in text for text in generator_prompts)
    stored = pq.read_table(out / "questions.parquet").to_pylist()
    assert {row["kind"] for row in stored} == {"math"}
    gold = {row["question_id"]: row["gold"] for row in stored}
    rows = node_rows(out)
    for row in rows:
        final = row["text"].removeprefix("Final Answer: ")
        assert row["correct"] == ((gold[row["question_id"]], final) in right), row
    flips = json.loads(malt("relabel", out, "--grader", "auto", "--json").stdout)["flips"]
    assert {count["to_positive"] + count["to_negative"] for count in flips.values()} == {0}
    assert malt("verify", out).returncode == 0


def test_a_changed_gold_is_refused_on_resuming(tmp_path: Path) -> None:
    questions, out = write_questions(tmp_path / "q.jsonl", 3), tmp_path / "f"
    with OpenAIServer(answer=answer, models=["m"], refuse=lambda body: Fault(400, "no")) as server:
        assert malt(*build_command(server, questions, out)).returncode == 1
        questions.write_text(questions.read_text().replace("#### 3", "#### 4"))
        server.refuse = lambda body: None
        run = malt(*build_command(server, questions, out))
    assert run.returncode == 1
    assert re.search(r"gold answer of question \w+ is '3' in .* but '4' in q.jsonl", run.stderr)
