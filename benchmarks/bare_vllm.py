"""How much of bare vLLM's speed does a build keep, and how many prompt tokens does it compute?

    python benchmarks/bare_vllm.py                         # in an environment with vLLM
    python benchmarks/bare_vllm.py --model Qwen/Qwen3-8B --trees 256 --max-tokens 512

Grows a forest with the vllm engine, then gives exactly its prompts and seeds to the same loaded
vLLM, all at once: no tree whose children wait, no prompt to render, nothing to grade or to store.
Both are timed in turn, `--repeat` times, with an empty prefix cache each, and printed side by side
with their ratio. Every completion is made as long as `--max-tokens`, so that both do the same work.
"""

import asyncio
import json
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from malt_data.builders.build import BuildReport, grow_all
from malt_data.engines import Completion, Engine, Request
from malt_data.engines.vllm import VLLMEngine, _sampling_parameters
from malt_data.forests.create import create_forest
from malt_data.graders import Grader
from malt_data.prompts.resolve import resolve_sampling
from malt_data.questions.loading import load_questions
from malt_data.schemas.spec import BuildSpec


class Recorder:
    """An engine that keeps the requests it passes on."""

    def __init__(self, engine: VLLMEngine) -> None:
        self.engine, self.model, self.gate = engine, engine.model, engine.gate
        self.requests: list[Request] = []

    async def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        self.requests.append(request)
        async for sample in self.engine.complete(request):
            yield sample

    async def close(self) -> None:
        pass


async def build(engine: Engine, spec: BuildSpec) -> BuildReport:
    """Grow the forest of `spec` in a fresh folder."""
    questions = load_questions(spec.questions, split="train", limit=spec.limit, seed=0).questions
    report = BuildReport(asked=len(questions))
    with tempfile.TemporaryDirectory() as folder, Grader() as grader:
        forest = create_forest(Path(folder) / "forest", spec, questions, {})
        await grow_all(forest, spec, questions, engine, grader, report)
    return report


async def bare(engine: VLLMEngine, requests: list[Request]) -> int:
    """Sample the same completions with nothing of ours in between; return their tokens."""
    llm: Any = engine._llm
    prompts = [(request, engine._encode(request)) for request in requests]

    async def sample(name: str, prompt: list[int], request: Request, seed: int) -> int:
        parameters = _sampling_parameters(request)(seed)
        stream = llm.generate({"prompt_token_ids": prompt}, parameters, name)
        (output,) = [output async for output in stream]
        return len(output.outputs[0].token_ids)

    return sum(
        await asyncio.gather(
            *(
                sample(f"bare-{time.monotonic_ns()}-{i}-{seed}", prompt, request, seed)
                for i, (request, prompt) in enumerate(prompts)
                for seed in request.seeds
            )
        )
    )


async def measure(spec: BuildSpec, repeat: int) -> None:
    options = {"concurrency": spec.concurrency or 256, **spec.engine_options}
    engine = await VLLMEngine.open(spec.model or "", **options)
    rates: dict[str, list[float]] = {"build": [], "bare": []}
    try:
        for _ in range(repeat):
            recorder = Recorder(engine)
            await engine._llm.reset_prefix_cache()
            report = await build(recorder, spec)
            rates["build"].append(report.completion_tokens / report.seconds)
            await engine._llm.reset_prefix_cache()
            started = time.monotonic()
            tokens = await bare(engine, recorder.requests)
            rates["bare"].append(tokens / (time.monotonic() - started))
            use = (report.prompt_computed or 0, report.prompt_least or 1)
            print(
                json.dumps(
                    {
                        "build_tokens_a_second": round(rates["build"][-1], 1),
                        "bare_tokens_a_second": round(rates["bare"][-1], 1),
                        "ratio": round(rates["build"][-1] / rates["bare"][-1], 3),
                        "completions": report.completions,
                        "prompt_tokens_over_least": round(use[0] / use[1], 3),
                    }
                ),
                flush=True,
            )
    finally:
        await engine.close()
    total = [sum(rates[name]) / repeat for name in ("build", "bare")]
    print(json.dumps({"ratio": round(total[0] / total[1], 3), "repeat": repeat}))


def options(description: str, *, trees: int, max_tokens: int, concurrency: int) -> ArgumentParser:
    """Return a parser for the options of a build with vLLM, with these defaults."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--model", default=None)
    parser.add_argument("--questions", default="embedded")
    parser.add_argument("--trees", type=int, default=trees)
    parser.add_argument("--n", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=max_tokens)
    parser.add_argument("--concurrency", type=int, default=concurrency, help="of each replica")
    parser.add_argument("--engine", default="{}", help="options of vLLM as JSON")
    return parser


def spec_of(args: Namespace, **more: Any) -> BuildSpec:
    """Return the settings of the build that `options` describe, whose texts all have one length."""
    spec = BuildSpec(
        questions=args.questions,
        limit=args.trees,
        n=args.n,
        engine="vllm",
        model=args.model,
        max_tokens=args.max_tokens,
        concurrency=args.concurrency,
        temperature=1.0,
        sampling={"ignore_eos": True},
        **{"engine_options": json.loads(args.engine), **more},
    )
    return resolve_sampling(spec)


def main() -> None:
    parser = options(__doc__.splitlines()[0], trees=24, max_tokens=24, concurrency=48)
    parser.add_argument("--repeat", type=int, default=2)
    args = parser.parse_args()
    asyncio.run(measure(spec_of(args), args.repeat))


if __name__ == "__main__":
    main()
