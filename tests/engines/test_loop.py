"""Builds and evaluations inside a running event loop, which is what a notebook's cells run in."""

import asyncio
import json
import os
import signal
import threading
from pathlib import Path

import pytest
from openai_server import OpenAIServer

from malt_data.builders.build import BuildReport, build_forest
from malt_data.engines.loop import run_sync
from malt_data.evaluation.ask import ask
from malt_data.evaluation.settings import find_settings
from malt_data.forests.forest import open_forest
from malt_data.schemas.spec import BuildSpec, EvalSpec


async def _half() -> int:
    await asyncio.sleep(0)
    return 1


async def _broken() -> int:
    raise ValueError("broken")


def test_what_it_returns_and_raises_is_the_same_in_a_loop_and_outside() -> None:
    async def inside() -> int:
        with pytest.raises(ValueError, match="broken"):
            run_sync(_broken())
        return run_sync(_half()) + run_sync(_half())

    assert run_sync(_half()) == 1
    assert asyncio.run(inside()) == 2
    with pytest.raises(ValueError, match="broken"):
        run_sync(_broken())


def test_a_build_and_a_question_in_a_notebook(tmp_path: Path) -> None:
    spec = questions(tmp_path / "q.jsonl", 3)
    with OpenAIServer(lambda *_: "Final Answer: 2") as server:
        at = {"base_url": server.base_url, "model": "test-model", "engine": "openai"}

        async def cell() -> tuple[BuildReport, str | None]:
            asked = EvalSpec(**at)
            answer, _ = ask("What is 1 + 1?", asked, find_settings(["sa"])[0], {})
            return build_forest(spec.model_copy(update=at), tmp_path / "forest"), answer

        report, answer = asyncio.run(cell())
    assert (report.grown, answer) == (3, "2")
    assert len(open_forest(tmp_path / "forest").done) == 3


def test_ctrl_c_in_a_notebook_keeps_what_is_finished(tmp_path: Path) -> None:
    """A notebook raises KeyboardInterrupt where the cell waits, and no loop takes care of it."""
    spec = questions(tmp_path / "q.jsonl", 40)
    with OpenAIServer(lambda *_: "Final Answer: 2", delay=0.05) as server:
        at = {"base_url": server.base_url, "model": "test-model", "engine": "openai"}

        def stop(report: BuildReport) -> None:
            if report.grown == 3 and not report.interrupted:
                os.kill(os.getpid(), signal.SIGINT)

        async def cell() -> BuildReport:
            return build_forest(
                spec.model_copy(update=at | {"concurrency": 1}), tmp_path / "f", on_progress=stop
            )

        assert threading.current_thread() is threading.main_thread()
        loop = asyncio.new_event_loop()
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
        try:
            report = loop.run_until_complete(cell())
        finally:
            signal.signal(signal.SIGINT, before)
        loop.close()
    assert report.interrupted
    assert 3 <= len(open_forest(tmp_path / "f").done) == report.grown < 40


def questions(path: Path, count: int) -> BuildSpec:
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(count)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", "utf-8")
    return BuildSpec(questions=str(path), n=1)
