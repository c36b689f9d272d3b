"""Do the intervals of `malt-data build --plan` contain what the whole build then has?

    PYTHONPATH=tests python benchmarks/plans.py             # 20 builds, some 10 minutes
    PYTHONPATH=tests python benchmarks/plans.py --models 0  # without the embedded model: a minute

Each build is planned from its first 20 trees and then grown to its end. Engines with known rates
answer 300 questions whose difficulty is distributed in six ways, with n = 2 or 3 in pipelines of
one to three turns; the embedded model answers questions of its own set and of reasoning-gym. A
build holds if its totals of completions, prompt tokens, completion tokens and pairs are all within
their 90 % intervals; those of each role are counted apart.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import known_rates

from malt_data.builders.build import build_forest
from malt_data.builders.pilot import predict_build
from malt_data.engines import Engine
from malt_data.forests.forest import open_forest
from malt_data.schemas.spec import BuildSpec

TREES = 300
RATES: dict[str, Callable[[float], float]] = {
    "even": lambda die: die,
    "hard": lambda die: die**3,
    "very hard": lambda die: 0.3 * die**6,
    "easy": lambda die: 1 - 0.2 * die**3,
    "all or none": lambda die: float(die > 0.5),
    "half hopeless": lambda die: max(0.0, 2 * die - 1),
}
PIPELINES: tuple[dict[str, Any], ...] = ({"n": 3}, {"n": 2}, {"n": 3, "pipeline": "refine"})
MODELS: tuple[dict[str, Any], ...] = (
    {"questions": "embedded", "limit": 60, "n": 2, "temperature": 0.7},
    {"questions": "reasoning-gym:basic_arithmetic", "limit": 50, "n": 2, "max_tokens": 24},
)


def builds(models: int) -> Iterator[tuple[str, BuildSpec, Engine | None]]:
    """Yield a name, the settings and the engine of each build; None: the one in the settings."""
    folder = Path(tempfile.mkdtemp(prefix="malt-plans-"))
    cases = itertools.product(PIPELINES, RATES.items())
    for seed, (settings, (name, rate)) in enumerate(cases):
        spec = known_rates.spec(folder, TREES, seed=seed, **settings)
        yield f"{name}, {spec.chain}", spec, known_rates.KnownRates(rate)
    for settings in MODELS[:models]:
        spec = BuildSpec(**settings)
        yield f"embedded model, {settings['questions']}", spec, None


def within(estimate: dict[str, float], real: float) -> bool:
    return estimate["low"] - 0.001 <= real <= estimate["high"] + 0.001


def compare(spec: BuildSpec, engine: Engine | None, folder: Path) -> tuple[dict[str, bool], int]:
    """Plan and grow; return which totals held, and how many of the intervals of roles did not."""
    plan = predict_build(spec, folder, engine=engine)
    build_forest(spec, folder, engine=engine)
    roles = open_forest(folder).sql("FROM role_stats").to_dicts()
    totals = {
        "completions": sum(row["nodes"] for row in roles),
        "prompt_tokens": sum(row["prompt_tokens"] for row in roles),
        "completion_tokens": sum(row["completion_tokens"] for row in roles),
        "pairs": sum(row["usable_pairs"] for row in roles),
    }
    held = {name: within(plan[name], real) for name, real in totals.items()}
    apart = sum(
        not within(planned[name], row[of])
        for planned, row in zip(plan["roles"], roles, strict=True)
        for name, of in (("positives", "positives"), ("pairs", "usable_pairs"))
    )
    return held, apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=len(MODELS), help="builds with a model")
    options = parser.parse_args()
    count = good = roles = missed = 0
    for name, spec, engine in builds(options.models):
        with tempfile.TemporaryDirectory(prefix="malt-plan-") as folder:
            held, apart = compare(spec, engine, Path(folder) / "forest")
        count += 1
        good += all(held.values())
        roles += 2 * len(spec.pipeline.roles)
        missed += apart
        out = [total for total, is_in in held.items() if not is_in]
        print(f"{name:62} {'holds' if not out else 'out: ' + ', '.join(out)}", flush=True)
    print(f"\n{good} of {count} builds hold in all totals")
    print(f"{roles - missed} of {roles} intervals of single roles hold")
    sys.exit(good < 0.9 * count)


if __name__ == "__main__":
    main()
