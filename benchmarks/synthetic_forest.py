"""A forest of any size for the benchmarks: even trees, texts of random words, no model.

    forest = synthetic_forest(Path("/tmp/forest"), nodes=10_000_000)

Texts are six sentences drawn from 200,000 (some 600 characters): too many for a compressor's
window, so they cost what real completions of the same entropy cost.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from malt_data.forests.create import create_forest
from malt_data.forests.forest import Forest
from malt_data.forests.labels import assign, stamped
from malt_data.prompts.resolve import resolve_sampling
from malt_data.schemas.forest import Question
from malt_data.schemas.ids import child_id, question_id
from malt_data.schemas.pipeline import shipped
from malt_data.schemas.spec import BuildSpec

N = 3
NODES_A_TREE = N + N**2 + N**3
_TREES_A_PART = 2_500
MALT = shipped()


def synthetic_forest(
    folder: Path, nodes: int, seed: int = 0, *, sentences_a_tree: int | None = None
) -> Forest:
    """Write a forest of about `nodes` nodes at n = 3, leaves right half the time.

    sentences_a_tree: how many its texts are drawn from; None: all. Real siblings share sentences.
    """
    source = np.random.default_rng(seed)
    pool = _sentences(source)
    trees = max(1, nodes // NODES_A_TREE)
    texts = [f"Twice {i}?" for i in range(trees)]
    questions = [
        Question(question_id(t, None), "made", "train", t, None, str(2 * i), "numeric", None, "{}")
        for i, t in enumerate(texts)
    ]
    spec = resolve_sampling(BuildSpec(engine="openai", model="made", n=N), None)
    forest = create_forest(folder, spec, questions, {})
    ids = sorted(q.question_id for q in questions)
    for start in range(0, trees, _TREES_A_PART):
        frame = _part(ids[start : start + _TREES_A_PART], source, pool, sentences_a_tree)
        forest.parts.write(stamped(frame, forest.manifest.labels))
    return forest


def _sentences(source: np.random.Generator, count: int = 200_000) -> pa.Array:
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    weight = 1 / np.arange(1, 27)
    drawn = source.choice(letters, (20_000, 8), p=weight / weight.sum())
    words = np.array(["".join(row[: 2 + i % 7]) for i, row in enumerate(drawn)])
    picked = words[source.integers(0, len(words), (count, 16))]
    return pa.array([" ".join(row) + "." for row in picked])


def _part(
    ids: list[str], source: np.random.Generator, pool: pa.Array, sentences_a_tree: int | None
) -> pl.DataFrame:
    tree = _one_tree()
    rows = len(ids) * NODES_A_TREE
    drawn = source.integers(0, len(pool), (6, rows))
    if sentences_a_tree is not None:
        own = source.integers(0, len(pool), (len(ids), sentences_a_tree))
        trees = np.repeat(np.arange(len(ids)), NODES_A_TREE)
        drawn = own[trees, drawn % sentences_a_tree]
    parts = [pool.take(pa.array(places)) for places in drawn]
    reward = source.integers(0, 2, rows)
    frame = pl.concat([tree] * len(ids)).with_columns(
        question_id=pl.Series(ids).repeat_by(NODES_A_TREE).explode(),
        text=pl.Series(pc.binary_join_element_wise(*parts, " ")),
        finish_reason=pl.Series(np.where(source.random(rows) < 0.02, "length", "stop")),
        reward=pl.when(pl.col("depth") == len(MALT.turns)).then(pl.Series(reward.astype(float))),
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
        thinking=pl.lit(None, pl.String),
        extra=pl.lit(False),
        cached_tokens=pl.lit(None, pl.Int32),
        latency=pl.lit(1.0),
    )
    return assign(frame, 0.5, "global")


def _one_tree() -> pl.DataFrame:
    rows: list[dict[str, Any]] = []

    def visit(path: str, depth: int, parent: int | None) -> None:
        for sample in range(N):
            role, place = MALT.turns[depth].role, len(rows)
            rows.append(
                {
                    "place": child_id(path, role, sample),
                    "above": path,
                    "node": place,
                    "parent": parent,
                    "role": role,
                    "depth": depth + 1,
                    "sample": sample,
                }
            )
            if depth + 1 < len(MALT.turns):
                visit(child_id(path, role, sample), depth + 1, place)

    visit("", 0, None)
    small = {"depth": pl.Int8, "sample": pl.Int16, "node": pl.Int32, "parent": pl.Int32}
    return pl.DataFrame(rows, schema_overrides=small)
