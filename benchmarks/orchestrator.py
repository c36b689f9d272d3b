"""How many completions a second the builder can take, and does its memory stay flat?

    python benchmarks/orchestrator.py
    python benchmarks/orchestrator.py --trees 1000 --replicas 2   # the same in replicas on Ray

A build against an engine that answers at once, everything else real: prompts, ids, seeds,
grading, values, Parquet parts on disk. Runs itself once for each number of questions, on one
core (with replicas, on all), and prints completions a second, also of the driver's processor time,
and peak memory side by side.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from malt_data.builders.build import BuildReport, grow_all
from malt_data.engines import Completion, Engine, Gate, Request
from malt_data.forests.create import create_forest
from malt_data.forests.forest import Forest
from malt_data.graders import Grader
from malt_data.prompts.resolve import resolve_sampling
from malt_data.schemas.forest import Question
from malt_data.schemas.ids import question_id
from malt_data.schemas.spec import BuildSpec

SIZES = (250, 1000, 4000)
REASONING = "First add the tens, then the ones, and carry what is left over. " * 9


class InstantEngine:
    """Answers at once with about 600 characters, right two times in three."""

    model = "instant"

    def __init__(self) -> None:
        self.gate = Gate(64)

    async def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        async with self.gate.slot(request.priority):
            for sample, seed in enumerate(request.seeds):
                answer = "7" if seed % 3 else "8"
                text = f"{REASONING}\nFinal Answer: {answer}"
                yield sample, Completion(text, "stop", 100, 150, seed)

    async def close(self) -> None:
        pass


def questions(count: int) -> list[Question]:
    texts = [f"Number {i}: what is 3 + 4?" for i in range(count)]
    return [
        Question(question_id(t, None), "bench", "train", t, None, "7", "numeric", None, "{}")
        for t in texts
    ]


async def open_instant(note: Callable[[str], None]) -> Engine:
    return InstantEngine()


def measure(count: int, replicas: int) -> dict[str, float]:
    """Grow `count` trees at n = 3 in a fresh folder; return what it took."""
    spec = resolve_sampling(BuildSpec(n=3, engine="openai", model="instant"), None)
    report = BuildReport(asked=count)
    with tempfile.TemporaryDirectory() as folder:
        forest = create_forest(Path(folder) / "forest", spec, questions(count), {})
        with Grader() as grader:
            seconds, busy = asyncio.run(grow(forest, spec, count, replicas, grader, report))
    return {
        "trees": count,
        "completions": report.completions,
        "completions_a_second": round(report.completions / seconds),
        "completions_a_busy_second": round(report.completions / busy),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


async def grow(
    forest: Forest, spec: BuildSpec, count: int, replicas: int, grader: Grader, report: BuildReport
) -> tuple[float, float]:
    """Return the seconds that it took, and those of this process's processor time."""
    engine: Engine = InstantEngine()
    if replicas:
        from malt_data.engines.replicas import Replicas

        engine = await Replicas.open(open_instant, count=replicas)
        await asyncio.sleep(3)  # until the others are ready too
    try:
        started, busy = time.perf_counter(), time.process_time()
        await grow_all(forest, spec, questions(count), engine, grader, report)
        return time.perf_counter() - started, time.process_time() - busy
    finally:
        await engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trees", type=int, help="measure this size in this process")
    parser.add_argument("--replicas", type=int, default=0, help="0: the engine is in this process")
    options = parser.parse_args()
    if options.trees:
        if not options.replicas:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(json.dumps(measure(options.trees, options.replicas)))
        return
    for size in SIZES:
        command = [sys.executable, __file__, "--trees", str(size)]
        command += ["--replicas", str(options.replicas)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


if __name__ == "__main__":
    main()
