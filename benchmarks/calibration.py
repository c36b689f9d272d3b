"""Is a label right as often as its confidence says? Simulated trees with known true values.

    PYTHONPATH=tests python benchmarks/calibration.py                 # 20,000 trees a case
    PYTHONPATH=tests python benchmarks/calibration.py --trees 2000 --rates logit-normal

For each distribution of rates, even and adaptive trees and both poolings: fit to as many trees as a
forest would be, then compare, in each decile of confidence, the mean confidence of the inner nodes
with the share of their labels that are right. Prints, in points, right minus stated by decile.
"""

import argparse
import time
from typing import get_args

import numpy as np
import polars as pl
from simulated_trees import FAMILIES, off, simulate

from malt_data.forests.confidence import FITTED_TREES, fit_confidence
from malt_data.schemas.spec import Labels, Pooling

EXTRA = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trees", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rates", choices=list(FAMILIES), nargs="+", default=list(FAMILIES))
    asked = parser.parse_args()
    print("rates         trees     pooling  right  stated  worst  right − stated by decile, points")
    for family in asked.rates:
        for extra in (0, EXTRA):
            for pooling in get_args(Pooling):
                _case(family, extra, pooling, asked.trees, asked.seed)


def _case(family: str, extra: int, pooling: Pooling, trees: int, seed: int) -> None:
    started = time.perf_counter()
    nodes = simulate(FAMILIES[family], trees, pooling, extra, np.random.default_rng(seed))
    model = fit_confidence(nodes.filter(pl.col("tree") < FITTED_TREES), Labels(pooling=pooling))
    deciles = off(model.of(nodes))
    gaps = [100 * gap for gap in deciles["off"]]
    right, stated = (
        100 * float(np.mean(deciles[name].to_numpy())) for name in ("right", "confidence")
    )
    print(
        f"{family:13} {'adaptive' if extra else 'even':9} {pooling:7} {right:6.1f} {stated:7.1f} "
        f"{max(map(abs, gaps)):6.2f}  {' '.join(f'{gap:+.1f}' for gap in gaps)}"
        f"   ({time.perf_counter() - started:.0f} s)",
        flush=True,
    )


if __name__ == "__main__":
    main()
