"""Write what each setting of a team cost, training included, beside its accuracy.

    python docs/results/natural/costs.py natural/greater/0 docs/results/natural/greater/0

The first folder is that of run.sh, with trees and adapters; what they cost is kept as costs.json in
the second one, which has the results. With the second alone, the table is written from there.
"""

import json
import sys
from pathlib import Path
from typing import Any

from malt_data import open_results

Costs = dict[str, dict[str, Any]]
"""Of trees and adapters, by folder: tokens, seconds, peak_memory (bytes)."""

_ONE, _TEAM = ("generator",), ("generator", "verifier", "refiner")


def _stages(folder: str, roles: tuple[str, ...], stage: str = "sft") -> tuple[str, ...]:
    return tuple(f"{folder}/{role}_{stage}" for role in roles)


_STAR = ("trees", *_stages("team", _TEAM))
_AGAIN = (*_STAR, "again-trees")
_LATER = (*_AGAIN, *_stages("pairs", ("verifier", "refiner"), "dpo"))
TOOK = {
    "sa": (),
    "star-sa": ("trees", *_stages("team", _ONE)),
    "star-ma": _STAR,
    "star-sa-again": (*_AGAIN, *_stages("again", _ONE)),
    "star-sa-again-11": (*_AGAIN, *_stages("again", _ONE)),
    "star-ma-again": (*_AGAIN, *_stages("again", _TEAM)),
    "star-sa-balanced": ("trees", *_stages("balanced", _ONE)),
    "malt-lone": ("trees", *_stages("team", _ONE), *_stages("pairs", _ONE, "dpo")),
    "malt-later": _LATER,
    "malt-both": (*_LATER, *_stages("again", _ONE)),
    "malt-again": (*_AGAIN, *_stages("pairs", _TEAM, "dpo")),
}
"""The trees and adapters that a setting takes. Where the generator's pairs are of the second round,
so is malt-lone (OF_AGAIN).
"""
OF_AGAIN = {"malt-lone": (*_AGAIN, *_stages("pairs", _ONE, "dpo"))}


def collect(run: Path) -> Costs:
    """Return the costs of a team's trees and adapters. Those of trees are sampled tokens."""
    found: Costs = {}
    for stage in sorted({stage for stages in TOOK.values() for stage in stages}):
        if not (run / stage).exists():  # left out for this task
            continue
        if (run / stage).is_symlink():  # a role without pairs, see run.sh
            found[stage] = {"tokens": 0, "seconds": 0, "peak_memory": 0}
        elif stage.endswith("trees"):
            builds = json.loads((run / stage / "forest.json").read_text("utf-8"))["runs"]
            found[stage] = {
                "tokens": sum(b["prompt_tokens"] + b["completion_tokens"] for b in builds),
                "seconds": sum(b["seconds"] for b in builds),
                "peak_memory": max(b["peak_memory"] for b in builds),
            }
        else:
            record = json.loads((run / stage / "training.json").read_text("utf-8"))
            found[stage] = {key: record[key] for key in ("tokens", "seconds", "peak_memory")}
            if stage == "pairs/generator_dpo":
                found[stage]["data"] = record["data"]
    return found


def table(costs: Costs, results: Path) -> list[list[str]]:
    """Return the rows of a table, with one setting each."""
    head = ["setting", "accuracy, %", "tokens per answer", "sampled tokens, thousands"]
    head += ["trained tokens, thousands", "minutes before", "memory, GiB"]
    rows = [head, ["---"] * len(head)]
    pairs = costs["pairs/generator_dpo"].get("data", "trees")
    took = TOOK | (OF_AGAIN if pairs == "again-trees" else {})
    for use in open_results(results).sql("FROM cost ORDER BY accuracy, setting").to_dicts():
        stages = took[use["setting"].removesuffix("+mv")]
        taken = [(stage.endswith("trees"), costs[stage]) for stage in stages]
        sampled = sum(cost["tokens"] for tree, cost in taken if tree)
        trained = sum(cost["tokens"] for tree, cost in taken if not tree)
        row = [use["setting"], f"{use['accuracy'] * 100:.1f}", f"{use['tokens']:.0f}"]
        row += [f"{sampled / 1e3:.0f}", f"{trained / 1e3:.0f}"]
        row.append(f"{sum(cost['seconds'] for _, cost in taken) / 60:.0f}")
        peak = max((cost["peak_memory"] for _, cost in taken), default=0)
        rows.append([*row, f"{peak / 2**30:.1f}"])
    return rows


def written(rows: list[list[str]]) -> str:
    """Return the rows as Markdown."""
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main(*folders: str) -> None:
    *run, team = map(Path, folders)
    kept = team / "costs.json"
    if run:
        kept.write_text(json.dumps(collect(run[0]), indent=2) + "\n", "utf-8")
    rows = table(json.loads(kept.read_text("utf-8")), team / "results")
    (team / "costs.md").write_text(written(rows), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
