"""A forest of any size for the benchmarks: even trees, texts of random words, no model.

    forest = synthetic_forest(Path("/tmp/forest"), nodes=10_000_000)

Texts are six sentences drawn from 200,000 (some 600 characters): too many for a compressor's
window, so they cost what real completions of the same entropy cost.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from malt_data.forests.create import create_forest
from malt_data.forests.forest import Forest
from malt_data.forests.labels import assign, stamped
from malt_data.prompts.resolve import resolve_sampling
from malt_data.schemas.forest import Question
from malt_data.schemas.roles import ROLES
from malt_data.schemas.spec import BuildSpec

N = 3
NODES_A_TREE = N + N**2 + N**3
_TREES_A_PART = 2_500


def synthetic_forest(folder: Path, nodes: int, seed: int = 0) -> Forest:
    """Write a forest of about `nodes` nodes at n = 3, leaves right half the time."""
    source = np.random.default_rng(seed)
    pool = _sentences(source)
    trees = max(1, nodes // NODES_A_TREE)
    questions = [
        Question(
            f"{i:016x}", "made", "train", f"Twice {i}?", None, str(2 * i), "numeric", None, "{}"
        )
        for i in range(trees)
    ]
    spec = resolve_sampling(BuildSpec(engine="openai", model="made", n=N), None)
    forest = create_forest(folder, spec, questions, {})
    ids = [q.question_id for q in questions]
    for start in range(0, trees, _TREES_A_PART):
        frame = _part(ids[start : start + _TREES_A_PART], source, pool)
        forest.parts.write(stamped(frame, forest.manifest.labels))
    return forest


def _sentences(source: np.random.Generator, count: int = 200_000) -> pa.Array:
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    weight = 1 / np.arange(1, 27)
    drawn = source.choice(letters, (20_000, 8), p=weight / weight.sum())
    words = np.array(["".join(row[: 2 + i % 7]) for i, row in enumerate(drawn)])
    picked = words[source.integers(0, len(words), (count, 16))]
    return pa.array([" ".join(row) + "." for row in picked])


def _part(ids: list[str], source: np.random.Generator, pool: pa.Array) -> pl.DataFrame:
    tree = _one_tree()
    rows = len(ids) * NODES_A_TREE
    parts = [pool.take(pa.array(source.integers(0, len(pool), rows))) for _ in range(6)]
    reward = source.integers(0, 2, rows)
    frame = pl.concat([tree] * len(ids)).with_columns(
        question_id=pl.Series(ids).repeat_by(NODES_A_TREE).explode(),
        text=pl.Series(pc.binary_join_element_wise(*parts, " ")),
        finish_reason=pl.Series(np.where(source.random(rows) < 0.02, "length", "stop")),
        reward=pl.when(pl.col("depth") == len(ROLES)).then(pl.Series(reward.astype(float))),
        seed=pl.Series(source.integers(0, 2**31, rows)),
    )
    right = pl.Series(reward.astype(bool))
    frame = frame.with_columns(
        node_id=pl.concat_str("question_id", "place"),
        parent_id=pl.when(pl.col("depth") > 1).then(pl.concat_str("question_id", "above")),
        answer=pl.when(right).then(pl.lit("42")).otherwise(pl.lit("41")),
        correct=right,
        verdict=pl.when(right).then(pl.lit("right")).otherwise(pl.lit("wrong")),
        prompt_tokens=pl.lit(200, pl.Int32),
        completion_tokens=pl.lit(150, pl.Int32),
        model=pl.lit("made"),
        adapter=pl.lit(None, pl.String),
        latency=pl.lit(1.0),
    )
    return assign(frame, 0.5, "global")


def _one_tree() -> pl.DataFrame:
    places = [
        (g, v, r)
        for g in range(N)
        for v in (None, *range(N))
        for r in ((None, *range(N)) if v is not None else (None,))
    ]
    rows = []
    for place in places:
        steps = [f"/{letter}{i}" for letter, i in zip("gvr", place, strict=True) if i is not None]
        rows.append(
            {
                "place": "".join(steps),
                "above": "".join(steps[:-1]),
                "role": ROLES[len(steps) - 1],
                "depth": len(steps),
                "sample": [i for i in place if i is not None][-1],
                **dict(zip("gvr", place, strict=True)),
            }
        )
    small = {"depth": pl.Int8, "sample": pl.Int16, "g": pl.Int16, "v": pl.Int16, "r": pl.Int16}
    return pl.DataFrame(rows, schema_overrides=small)
