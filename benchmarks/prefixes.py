"""How many prompt tokens does a build compute, against each distinct prefix of a tree once?

    python benchmarks/prefixes.py                  # in an environment with vLLM
    python benchmarks/prefixes.py --replicas 2     # and Ray

Every text is made as long as `--max-tokens`. `computed_over_least` is what a build's summary says.
vLLM caches whole blocks only, so each completion costs at least what its prompt has behind the last
one: `blocks_over_least` is the best that such a cache can do.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable

from bare_vllm import build, options, spec_of

from malt_data.builders.prefixes import distinct_tokens
from malt_data.engines import Completion, Engine, Request
from malt_data.engines.opening import open_engine
from malt_data.schemas.spec import BuildSpec

Ids = tuple[int, ...]


class Recorder:
    """An engine that keeps the prompts of each tree, one a completion."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.model, self.gate = engine, engine.model, engine.gate
        self.prompts: dict[str, list[Ids]] = defaultdict(list)

    async def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        async for sample, completion in self.engine.complete(request):
            self.prompts[request.tree].append(completion.prompt_ids or ())
            yield sample, completion

    async def close(self) -> None:
        await self.engine.close()


def least_in_blocks(prompts: Iterable[Ids], size: int) -> int:
    """Return the tokens to compute if whole blocks are cached: each once, and every prompt's rest.

    A rest has at least one token, since the last one is always computed.
    """
    rests, whole = 0, []
    for ids in prompts:
        end = (len(ids) - 1) // size * size
        rests += len(ids) - end
        whole.append(tuple(hash(ids[i : i + size]) for i in range(0, end, size)))
    return rests + size * distinct_tokens((blocks, len(blocks)) for blocks in whole)


async def measure(spec: BuildSpec, block_size: int) -> dict[str, object]:
    recorder = Recorder(await open_engine(spec))
    try:
        report = await build(recorder, spec)
    finally:
        await recorder.close()
    if not report.prompt_least:
        raise SystemExit(f"No tree was grown and counted: {report.failed}")
    least = report.prompt_least
    blocks = sum(least_in_blocks(prompts, block_size) for prompts in recorder.prompts.values())
    return {
        "trees": report.grown,
        "completions": report.completions,
        "seconds": round(report.seconds),
        "block_size": block_size,
        "least": least,
        "computed_over_least": round((report.prompt_computed or 0) / least, 3),
        "blocks_over_least": round(blocks / least, 3),
    }


def main() -> None:
    parser = options(__doc__.splitlines()[0], trees=2, max_tokens=1300, concurrency=16)
    parser.add_argument("--replicas", type=int, default=None)
    parser.add_argument("--block-size", type=int, default=32)
    args = parser.parse_args()
    engine = {"block_size": args.block_size, **json.loads(args.engine)}
    spec = spec_of(args, replicas=args.replicas, engine_options=engine)
    print(json.dumps(asyncio.run(measure(spec, args.block_size))))


if __name__ == "__main__":
    main()
