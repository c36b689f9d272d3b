"""Values and labels against a brute-force definition (MALT §4.2, §A.5)."""

import random
from dataclasses import replace
from fractions import Fraction
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malt_data.errors import ForestError
from malt_data.forests.labels import assign
from malt_data.forests.values import Columns, _common_levels, _of_rows, value_columns

Rewards = list[list[list[int]]]
"""rewards[g][v][r]: 0 or 1."""

trees = st.tuples(*[st.integers(1, 6)] * 3).flatmap(
    lambda n: st.lists(
        st.lists(
            st.lists(st.integers(0, 1), min_size=n[2], max_size=n[2]), min_size=n[1], max_size=n[1]
        ),
        min_size=n[0],
        max_size=n[0],
    )
)
ragged = st.lists(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=4), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


def _levels(draw: Any, depth: int) -> Any:
    if not depth:
        return draw(st.integers(0, 1))
    return [_levels(draw, depth - 1) for _ in range(draw(st.integers(1, 2)))]


@st.composite
def chains_of_any_length(draw: Any) -> Any:
    return _levels(draw, draw(st.integers(1, 5)))


chains = chains_of_any_length()


def frame_of(rewards: Any, question_id: str = "q") -> pl.DataFrame:
    """Return the nodes of a tree: nested lists of rewards, one level per turn."""
    rows: list[dict[str, Any]] = []

    def visit(children: Any, path: tuple[int, ...], parent: int | None) -> None:
        for sample, child in enumerate(children):
            place, is_leaf = len(rows), isinstance(child, int)
            rows.append(
                {
                    "path": (*path, sample),
                    "node": place,
                    "parent": parent,
                    "depth": len(path) + 1,
                    "extra": False,
                    "reward": float(child) if is_leaf else None,
                }
            )
            if not is_leaf:
                visit(child, (*path, sample), place)

    visit(rewards, (), None)
    schema: dict[str, Any] = {
        "path": pl.List(pl.Int64), "node": pl.Int32, "parent": pl.Int32, "depth": pl.Int8,
        "extra": pl.Boolean, "reward": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema).with_columns(question_id=pl.lit(question_id))


def brute_force(rewards: Any, threshold: Fraction, pooling: str) -> dict[tuple[int, ...], Any]:
    """Return path → (value, label, leaves) in exact arithmetic."""
    results: dict[tuple[int, ...], Any] = {}

    def visit(node: Any, path: tuple[int, ...]) -> tuple[Fraction, int]:
        if isinstance(node, int):
            value, leaves = Fraction(node), 1
        else:
            children = [visit(child, (*path, i)) for i, child in enumerate(node)]
            if pooling == "local":
                pooled = [Fraction(results[(*path, i)][1]) for i in range(len(children))]
            else:
                pooled = [value for value, _ in children]
            value = sum(pooled, Fraction()) / len(pooled)
            leaves = sum(n for _, n in children)
        results[path] = (value, value > threshold, leaves)
        return value, leaves

    visit(rewards, ())
    del results[()]
    return results


def by_path(frame: pl.DataFrame) -> dict[tuple[int, ...], Any]:
    return {
        tuple(row["path"]): (row["value"], row["label"], row["leaves"])
        for row in frame.iter_rows(named=True)
    }


@settings(max_examples=300, deadline=None)
@given(
    trees | ragged | chains,
    st.sampled_from([0, 1, 2, 3, 5, 6, 9]),
    st.sampled_from(["global", "local"]),
)
def test_values_and_labels_match_the_definition(rewards: Any, tenths: int, pooling: Any) -> None:
    expected = brute_force(rewards, Fraction(tenths, 10), pooling)
    actual = by_path(assign(frame_of(rewards), tenths / 10, pooling))
    assert actual.keys() == expected.keys()
    for path, (value, label, leaves) in expected.items():
        assert actual[path][0] == pytest.approx(float(value), abs=1e-12)
        assert actual[path][1:] == (label, leaves), (path, value)


def _columns(trees: list[Any]) -> Columns:
    frames = [frame_of(tree, f"q{number}") for number, tree in enumerate(trees)]
    return Columns.of(pl.concat(frames).select(Columns.NAMES).to_arrow())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(1, 4),
    st.sampled_from(["global", "local"]),
    st.randoms(use_true_random=False),
)
def test_trees_of_the_same_shape_get_exactly_the_values_of_any_trees(
    shape: list[int], count: int, pooling: Any, source: random.Random
) -> None:
    def grow(level: int) -> Any:
        if level == len(shape):
            return source.randint(0, 1)
        return [grow(level + 1) for _ in range(shape[level])]

    columns = _columns([grow(0) for _ in range(count)])
    ours, theirs = value_columns(columns, 0.5, pooling), _of_rows(columns, 0.5, pooling)
    for name in ours._fields:
        assert getattr(ours, name).tolist() == getattr(theirs, name).tolist(), name
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype


@pytest.mark.parametrize("depth", [0, -1, 9])
def test_nodes_at_an_impossible_depth_are_no_matrix(depth: int) -> None:
    columns = _columns([[[0], [1]], [[1], [1]]])
    depths = columns.depth.copy()
    depths[[0, 4]] = depth
    assert _common_levels(columns)
    assert _common_levels(replace(columns, depth=depths)) is None


def test_trees_of_the_same_size_may_differ_in_shape() -> None:
    wide, long = [[[0], [1], [1]], [[1]]], [[[0], [1]], [[1], [1]]]
    alone = [by_path(assign(frame_of(tree), 0.5, "global")) for tree in (wide, long)]
    both = value_columns(_columns([wide, long]), 0.5, "global")
    expected = [row for found in alone for _, row in sorted(found.items())]
    assert list(zip(*(c.tolist() for c in both), strict=True)) == expected


def test_a_tie_is_negative_despite_floating_point_errors() -> None:
    source = random.Random(0)
    ties = 0
    for _ in range(300):
        leaves = [0, 1] * 108  # n = 6: 216 leaves, half of them right
        source.shuffle(leaves)
        rewards = [
            [leaves[36 * g + 6 * v : 36 * g + 6 * v + 6] for v in range(6)] for g in range(6)
        ]
        actual = by_path(assign(frame_of(rewards), 0.5, "global"))
        for path, (value, label, _) in brute_force(rewards, Fraction(1, 2), "global").items():
            assert actual[path][1] == label
            ties += value == Fraction(1, 2) and len(path) == 1
    assert ties > 50  # the test did see ties


@settings(max_examples=50, deadline=None)
@given(trees, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rewards: Rewards, source: random.Random) -> None:
    frame = pl.concat([frame_of(rewards, "a"), frame_of(rewards, "b")])
    order = list(range(frame.height))
    source.shuffle(order)
    assert assign(frame, 0.5, "global").equals(assign(frame[order], 0.5, "global"))


def test_relabelling_replaces_the_old_labels() -> None:
    labelled = assign(frame_of([[[1, 0, 1]]]), 0.5, "global")
    assert by_path(assign(labelled, 0.7, "global"))[(0,)] == (pytest.approx(2 / 3), False, 3)


def test_an_incomplete_tree_is_an_error() -> None:
    frame = frame_of([[[1], [0]]]).filter(pl.col("reward").ne_missing(0.0))
    with pytest.raises(ForestError, match="Tree q is incomplete"):
        assign(frame, 0.5, "global")


def test_extra_samples_are_in_no_mean_above_them() -> None:
    frame = frame_of([[[1, 0, 0]]])
    marked = frame.with_columns(extra=pl.Series([False, False, False, False, True]))
    assert by_path(assign(marked, 0.4, "global")) == {
        (0,): (0.5, True, 2),
        (0, 0): (0.5, True, 2),
        (0, 0, 0): (1.0, True, 1),
        (0, 0, 1): (0.0, False, 1),
        (0, 0, 2): (0.0, False, 1),
    }
