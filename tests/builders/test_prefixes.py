"""Prompt tokens computed, against each distinct prefix of a tree once."""

import json
from itertools import accumulate
from pathlib import Path

import pytest
from builders.test_build import build_command, write_questions
from hypothesis import given
from hypothesis import strategies as st
from openai_server import OpenAIServer
from shell import malt

from malt_data.builders.build import BuildReport
from malt_data.builders.prefixes import distinct_tokens, prompt_use
from malt_data.engines import Completion, Request

_IDS = st.lists(st.integers(0, 3), min_size=1, max_size=8).map(tuple)


@given(st.sets(_IDS))
def test_the_tokens_of_distinct_prefixes_are_the_nodes_of_a_prefix_tree(
    prompts: set[tuple[int, ...]],
) -> None:
    tree = {prefix for ids in prompts for prefix in accumulate((i,) for i in ids)}
    assert distinct_tokens((ids, len(ids)) for ids in prompts) == len(tree)


def test_adapters_share_no_prefixes_and_siblings_do() -> None:
    def sampled(
        adapter: str | None, ids: tuple[int, ...], cached: int
    ) -> tuple[Request, Completion]:
        completion = Completion("", "stop", len(ids), 1, 0, cached_tokens=cached, prompt_ids=ids)
        return Request("", (0,), 0, 1, adapter), completion

    tree = [sampled(None, (1, 2, 3), 0), sampled(None, (1, 2, 3), 3), sampled("v", (1, 2, 3), 0)]
    assert prompt_use(tree) == (6, 6)
    assert prompt_use([*tree, sampled("v", (1, 2, 4), 1)]) == (8, 7)
    uncounted = Completion("", "stop", 3, 1, 0)
    assert prompt_use([*tree, (Request("", (0,), 0, 1), uncounted)]) is None


def test_a_report_is_silent_once_an_engine_has_not_counted() -> None:
    request = Request("ab", (0,), 0, 1)
    counted = Completion("", "stop", 2, 1, 0, cached_tokens=0)
    report = BuildReport()
    report.add_tree([(request, counted)])
    assert (report.prompt_computed, report.prompt_least) == (2, 2)
    for completion in (Completion("", "stop", 2, 1, 0), counted):
        report.add_tree([(request, completion)])
        assert (report.prompt_computed, report.prompt_least) == (None, None)
    assert report.grown == 3


@pytest.mark.slow
def test_a_server_that_counts_cached_tokens_is_measured_against_the_least(tmp_path: Path) -> None:
    questions = write_questions(tmp_path / "q.jsonl", 3)
    usage = {
        "prompt_tokens": 40,
        "completion_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 30},
    }
    with OpenAIServer(models=("m",), usage=usage) as server:
        run = malt(*build_command(server, questions, tmp_path / "f", "--json"))
        assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["prompt_computed"] == 3 * 13 * 10  # each request computes ten tokens, once
    assert 0 < report["prompt_least"] < 3 * 13 * 40
    stats = json.loads(malt("stats", tmp_path / "f", "--json").stdout)["forest"]
    assert stats["prompt_computed"] == report["prompt_computed"]
    assert "times the least possible" in " ".join(malt("stats", tmp_path / "f").stdout.split())
    sums = malt("sql", tmp_path / "f", "SELECT sum(prompt_tokens - cached_tokens) AS t FROM nodes")
    assert sums.stdout.split() == ["t", "390"]
