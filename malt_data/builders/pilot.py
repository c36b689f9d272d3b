"""Plan a build: grow a few of its trees, and predict the rest from them.

    plan = predict_build(BuildSpec(questions="gsm8k", n=3), "forest")
    plan["roles"][2]["pairs"]      # {'mean': 18250.0, 'low': 15310.0, 'high': 21190.0}

The trees of the pilot are the first of the build and stay in the forest.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from malt_data.builders.build import BuildReport, build_forest
from malt_data.builders.plan import in_shard, load
from malt_data.builders.predict import (
    LEVEL,
    TOGETHER,
    Estimate,
    Yields,
    most,
    predict_all,
    predict_total,
    simulate,
)
from malt_data.engines import Engine
from malt_data.errors import ForestError
from malt_data.forests.confidence import COLUMNS, FITTED_TREES
from malt_data.forests.forest import Forest, open_forest
from malt_data.forests.rates import Rates, Trees, fit
from malt_data.prompts.resolve import resolve_sampling
from malt_data.schemas.spec import BuildSpec

PILOT_TREES = 20
OTHER_BRANCHINGS = (1, 2, 3, 4, 5)


def predict_build(
    spec: BuildSpec,
    folder: str | Path,
    *,
    engine: Engine | None = None,
    prompts_file: str | Path | None = None,
    on_progress: Callable[[BuildReport], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Grow a pilot of PILOT_TREES trees, unless there are as many; return the prediction.

    Its estimates are {mean, low, high} of the whole forest: `completions`, `prompt_tokens`,
    `completion_tokens` and `pairs`, with intervals that hold together in 90 % of the cases; by role
    `positives` and `pairs`, with 90 % intervals each. `shared_prompt_tokens`: with each distinct
    prefix of a tree once; null if the engine does not say. `hours_left`: of the trees missing, at
    the rate of the last build. `branchings`: what other n would give; not if it is adaptive.
    Otherwise like `build_forest`.
    """
    questions = load(resolve_sampling(spec, prompts_file, engine)).questions
    asked = {q.question_id for q in questions if in_shard(q.question_id, spec.shard)}
    first = PILOT_TREES * int((spec.shard or "1/1").partition("/")[2])
    pilot = spec.updated(limit=first) if first < len(questions) else spec
    report = build_forest(
        pilot, folder, engine=engine, prompts_file=prompts_file, on_progress=on_progress, note=note
    )
    if report.interrupted:
        raise ForestError(
            "The pilot is not complete: it was interrupted. Run the same command again."
        )
    if report.failed:
        why = next(iter(report.failed.values()))
        note(f"{len(report.failed)} of the pilot's trees failed; the plan is without them: {why}")
    return _predict(open_forest(folder), spec, asked)


def _predict(forest: Forest, spec: BuildSpec, asked: set[str]) -> dict[str, Any]:
    nodes = forest.nodes().select("role", "prompt_tokens", "completion_tokens", *COLUMNS).collect()
    nodes = nodes.filter(pl.col("question_id").is_in(asked)).sort("question_id", "node")
    if nodes.is_empty():
        raise ForestError(f"{forest.folder} has no tree of these questions yet: run it again.")
    seen = _Seen(forest, nodes)
    missing = len(asked) - len(seen.ids)
    ends = _by_role(spec, most(spec.chain.branching))
    each = sum(pairs for _, pairs in ends.values())
    prompts = seen.total("prompt_tokens", missing, level=TOGETHER)
    completions = seen.total("completion_tokens", missing, level=TOGETHER)
    return {
        "forest": str(forest.folder),
        "pipeline": str(spec.chain),
        "questions": len(asked),
        "pilot_trees": len(seen.ids),
        "trees_left": missing,
        "completions": _completions(spec, seen, missing, len(asked)).to_dict(),
        "prompt_tokens": prompts.to_dict(),
        "shared_prompt_tokens": _shared(forest, prompts),
        "completion_tokens": completions.to_dict(),
        "hours_left": _hours(forest, completions, seen),
        "pairs": seen.total("pairs", missing, most=each, level=TOGETHER).to_dict(),
        "roles": [
            {
                "role": role,
                "positives": seen.total("positives", missing, role, ends[role][0]).to_dict(),
                "pairs": seen.total("pairs", missing, role, ends[role][1]).to_dict(),
            }
            for role in spec.pipeline.roles
        ],
        "branchings": [] if spec.adaptive else _branchings(spec, nodes, seen, len(asked)),
    }


def _completions(spec: BuildSpec, seen: "_Seen", missing: int, asked: int) -> Estimate:
    if spec.adaptive:
        return seen.total("completions", missing)
    count = float(asked * spec.chain.nodes_per_tree)
    return Estimate(count, count, count)


class _Seen:
    """What each tree of the pilot has."""

    def __init__(self, forest: Forest, nodes: pl.DataFrame) -> None:
        siblings = nodes.group_by("question_id", "role", "parent").agg(
            completions=pl.len(),
            positives=pl.col("label").sum(),
            pairs=pl.col("label").sum().cast(pl.Int64) * (~pl.col("label")).sum(),
            prompt_tokens=pl.col("prompt_tokens").sum(),
            completion_tokens=pl.col("completion_tokens").sum(),
        )
        self._roles = (
            siblings.drop("parent")
            .group_by("question_id", pl.col("role").cast(pl.String))
            .sum()
            .sort("question_id")
        )
        self.depths = (
            nodes.group_by("depth")
            .agg(pl.len(), pl.col("prompt_tokens").mean(), pl.col("completion_tokens").mean())
            .sort("depth")
        )
        self.ids = sorted(set(nodes["question_id"]))
        clusters = forest.questions().select("question_id", "cluster").collect()
        named = dict(clusters.iter_rows())
        self.clusters = [named.get(name) or name for name in self.ids]

    def of(self, name: str, role: str | None = None) -> list[float]:
        """Return a count of each tree, of one role or of all."""
        rows = self._roles if role is None else self._roles.filter(pl.col("role") == role)
        return (
            rows.group_by("question_id").agg(pl.col(name).sum()).sort("question_id")[name].to_list()
        )

    def total(
        self,
        name: str,
        missing: int,
        role: str | None = None,
        most: float | None = None,
        level: float = LEVEL,
    ) -> Estimate:
        return predict_total(self.of(name, role), missing, self.clusters, most, level)


def _by_role(spec: BuildSpec, found: Yields) -> dict[str, tuple[float, float]]:
    """Return role → positives and pairs of an average tree."""
    sums = dict.fromkeys(spec.pipeline.roles, (0.0, 0.0))
    positives, pairs = found.positives.mean(axis=0), found.pairs.mean(axis=0)
    for turn, good, mixed in zip(spec.chain.turns, positives, pairs, strict=True):
        before = sums[turn.role]
        sums[turn.role] = (before[0] + float(good), before[1] + float(mixed))
    return sums


def _shared(forest: Forest, tokens: Estimate) -> dict[str, float] | None:
    """Return the prompt tokens with each distinct prefix of a tree counted once."""
    runs = forest.manifest.runs
    if not all(run.prompt_least for run in runs) or not sum(run.prompt_tokens for run in runs):
        return None
    share = sum(run.prompt_least or 0 for run in runs) / sum(run.prompt_tokens for run in runs)
    return tokens.times(share).to_dict()


def _hours(forest: Forest, tokens: Estimate, seen: _Seen) -> dict[str, float] | None:
    """Return the hours that the missing trees take at the rate of the last build."""
    rates = [run.tokens_per_second for run in forest.manifest.runs if run.tokens_per_second]
    if not rates:
        return None
    known = sum(seen.of("completion_tokens"))
    left = (tokens.mean - known, tokens.low - known, tokens.high - known)
    return Estimate(*left).times(1 / rates[-1] / 3600).to_dict()


def _branchings(
    spec: BuildSpec, nodes: pl.DataFrame, seen: _Seen, questions: int
) -> list[dict[str, Any]]:
    """Return what other n would give; the model is fitted to some trees, if there are many."""
    trees = Trees.of(nodes.filter(pl.col("question_id") <= seen.ids[:FITTED_TREES][-1]))
    rates = fit(trees)
    return [_branching(n, spec, rates, trees, seen, questions) for n in OTHER_BRANCHINGS]


def _branching(
    n: int, spec: BuildSpec, rates: Rates, trees: Trees, seen: _Seen, questions: int
) -> dict[str, Any]:
    """Return what trees with n samples under each parent would cost and have."""
    chain = spec.pipeline.sampled(n, {})
    found = simulate(rates, rates.questions(trees), chain.branching, spec)
    tokens = sum(
        width * ((row["prompt_tokens"] or 0) + (row["completion_tokens"] or 0))
        for width, row in zip(chain.widths, seen.depths.iter_rows(named=True), strict=True)
    )
    pairs = predict_all(found.pairs.sum(axis=1), questions, len(seen.ids))
    roles = _by_role(spec, found)
    rate = 1000 * pairs.mean / (questions * tokens) if tokens else None
    return {
        "n": n,
        "completions": questions * chain.nodes_per_tree,
        "tokens": round(questions * tokens),
        "pairs": pairs.to_dict(),
        "pairs_by_role": {role: round(questions * mixed) for role, (_, mixed) in roles.items()},
        "positives_by_role": {role: round(questions * good) for role, (good, _) in roles.items()},
        "pairs_per_1000_tokens": None if rate is None else round(rate, 3),
    }
