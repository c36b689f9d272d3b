"""Adaptive builds: where they sample on, and that nothing else is disturbed by it."""

import hashlib
import random
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

import malt_data
from malt_data.builders.adaptive import cost, lacking
from malt_data.engines import Completion, Gate, Request
from malt_data.errors import MixError
from malt_data.exporters.explain import explain
from malt_data.forests.facts import stats
from malt_data.forests.forest import Forest
from malt_data.forests.labels import assign, tree_labels
from malt_data.schemas.forest import NODES
from malt_data.schemas.spec import Adaptive, BuildSpec, Labels

BRANCHING = (2, 2, 2)


class Rated:
    """An engine that answers right at a rate that depends on the question alone."""

    model = "rated"

    def __init__(self, places: int = 4) -> None:
        self.gate = Gate(places)

    async def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        text = str(request.prompt)
        a, b = map(int, re.findall(r"(\d+) plus (\d+)", text)[0])
        for index, seed in enumerate(request.seeds):
            async with self.gate.slot(request.priority):
                die = hashlib.sha256(f"{text} {seed}".encode()).digest()[0]
                right = die < 256 * (a % 5) / 4
                said = f"{seed}.\nFinal Answer: {a + b + (0 if right else 1)}"
                yield index, Completion(said, "stop", 10, 5, seed)

    async def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "sums.jsonl"
    lines = [
        f'{{"question": "What is {a} plus {b}?", "answer": "{a + b}"}}\n'
        for a in range(10, 20)
        for b in (3,)
    ]
    path.write_text("".join(lines))
    return path


def grow(questions: Path, folder: Path, places: int = 4, **settings: Any) -> Forest:
    spec = BuildSpec(**{"questions": str(questions), "engine": "mine", "adaptive": True} | settings)
    malt_data.build_forest(spec, folder, engine=Rated(places))
    return malt_data.open_forest(folder)


@pytest.fixture(scope="module")
def forest(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Forest:
    return grow(questions, tmp_path_factory.mktemp("adaptive") / "forest")


def stored(forest: Forest) -> pl.DataFrame:
    return forest.nodes().drop("latency").sort("question_id", "node").collect()


def in_base(nodes: pl.DataFrame) -> pl.DataFrame:
    """Return the nodes whose sample index is below 2 in every turn, by their ids."""
    inside = [all(int(step[1:]) < 2 for step in name.split("/")[1:]) for name in nodes["node_id"]]
    return nodes.filter(pl.Series(inside))


def tree(rewards: list[int]) -> dict[tuple[int, ...], float]:
    """Return the rewards of a tree of 2 × 2 × 2 by path."""
    return {(i // 4, i // 2 % 2, i % 2): float(reward) for i, reward in enumerate(rewards)}


def chosen(rewards: list[int], **rule: Any) -> list[tuple[int, ...]]:
    labels = tree_labels(tree(rewards), BRANCHING, Labels())
    return lacking(labels, BRANCHING, Adaptive(**rule))


def test_it_samples_on_where_one_label_is_lacking_and_the_other_is_frequent_elsewhere() -> None:
    found = chosen([1, 1, 1, 0, 0, 1, 0, 0])
    assert {(0, 0), (1, 1)} <= {*found}
    assert not {(0, 1), (1, 0)} & {*found}  # have both
    assert chosen([1, 1, 1, 0, 0, 1, 0, 0], least=5) == []
    assert chosen([1, 1, 1, 0, 0, 1, 0, 0], least=5, most=1) == []


def test_it_gives_up_on_a_tree_that_is_all_right_or_all_wrong_before_one_that_is_mixed() -> None:
    def bar(rewards: list[int]) -> float:
        return max(x / 100 for x in range(1, 200) if (0, 0) in chosen(rewards, least=x / 100))

    same, mixed = bar([0] * 8), bar([0, 0, 1, 0, 1, 0, 1, 1])
    assert same == bar([1] * 8)
    assert mixed > 3 * same


def test_a_parent_gets_no_more_extras_than_allowed() -> None:
    rewards = tree([0, 0, 1, 1, 1, 1, 1, 0]) | {(0, 0, 2): 0.0, (0, 0, 3): 0.0}
    labels = tree_labels(rewards, BRANCHING, Labels())
    assert (0, 0) in lacking(labels, BRANCHING, Adaptive(most=3))
    assert (0, 0) not in lacking(labels, BRANCHING, Adaptive(most=2))


def test_the_cost_of_a_child_includes_its_base_subtree() -> None:
    assert [cost((2, 3, 4), turn) for turn in range(3)] == [1 + 3 + 12, 1 + 4, 1]


@pytest.mark.parametrize("pooling", ["global", "local"])
def test_labels_of_a_growing_tree_are_those_that_will_be_stored(
    forest: Forest, pooling: Any
) -> None:
    labels = Labels(pooling=pooling, threshold=0.4)
    nodes = stored(forest)
    assigned = assign(nodes, labels.threshold, labels.pooling)
    for name in nodes["question_id"].unique():
        rows = assigned.filter(pl.col("question_id") == name).to_dicts()
        paths = [tuple(int(s[1:]) for s in row["node_id"].split("/")[1:]) for row in rows]
        by_path = dict(zip(paths, rows, strict=True))
        rewards: dict[tuple[int, ...], float] = {
            path: row["reward"] for path, row in by_path.items() if len(path) == 3
        }
        expected = {path: row["label"] for path, row in by_path.items()}
        assert tree_labels(rewards, BRANCHING, labels) == expected


def test_extras_are_marked_and_stand_where_a_label_was_lacking(forest: Forest) -> None:
    nodes = stored(forest)
    assert malt_data.verify(forest) == []
    assert nodes.filter(pl.col("extra")).height > 10
    assert nodes.filter(pl.col("extra") != (pl.col("sample") >= 2)).is_empty()
    siblings = defaultdict(list)
    for row in nodes.sort("sample").to_dicts():
        siblings[row["question_id"], row["parent"], row["depth"]].append(row)
    for (_, _, depth), rows in siblings.items():
        before = {row["label"] for row in rows[:-1]}
        if depth == 3 and rows[-1]["extra"]:  # their labels do not change later
            assert len(before) == 1
    assert set(in_base(nodes).group_by("question_id").len()["len"]) == {14}


def test_the_base_is_the_tree_of_a_build_that_is_not_adaptive(
    forest: Forest, questions: Path, tmp_path: Path
) -> None:
    plain = stored(grow(questions, tmp_path / "plain", adaptive=None, n=2))
    columns = ["node_id", "parent_id", "text", "seed", "value", "label", "leaves"]
    assert in_base(stored(forest)).select(columns).equals(plain.select(columns))


@pytest.mark.parametrize("places", [1, 32])
def test_the_same_forest_grows_whatever_the_load(
    forest: Forest, questions: Path, tmp_path: Path, places: int
) -> None:
    assert stored(grow(questions, tmp_path / "f", places)).equals(stored(forest))


def test_the_same_forest_grows_in_shards_and_when_resumed(
    forest: Forest, questions: Path, tmp_path: Path
) -> None:
    for settings in ({"limit": 3}, {"shard": "1/2"}, {"shard": "2/2"}):
        again = grow(questions, tmp_path / "f", **settings)
    grow(questions, tmp_path / "f")
    assert stored(again).equals(stored(forest))


def test_it_cannot_be_mixed_with_a_build_that_is_not_adaptive(
    questions: Path, tmp_path: Path
) -> None:
    for first, second in ((True, None), (None, True), (True, {"most": 3})):
        folder = tmp_path / f"{first} {second}"
        grow(questions, folder, limit=2, n=2, adaptive=first)
        with pytest.raises(MixError, match="adaptive"):
            grow(questions, folder, limit=4, n=2, adaptive=second)


def test_estimators_rest_on_the_base_and_counts_on_all_nodes(forest: Forest) -> None:
    nodes, facts = stored(forest), stats(forest)
    base = in_base(nodes)
    for row in facts["roles"]:
        of_role = pl.col("role").cast(pl.String) == row["role"]
        mine, all_mine = base.filter(of_role), nodes.filter(of_role)
        assert row["nodes"] == all_mine.height
        assert row["extra"] == all_mine.height - mine.height
        assert row["positives"] == all_mine["label"].sum()
        assert row["mean_value"] == pytest.approx(mine["value"].mean())
        assert row["accuracy"] == pytest.approx(mine["correct"].mean())
    means = base.group_by("question_id").agg(pl.col("reward").mean())["reward"]
    assert facts["forest"]["mixed"] == ((means > 0) & (means < 1)).sum()
    assert facts["forest"]["all_right"] == (means == 1).sum()


def test_extras_are_in_pairs_and_exports(forest: Forest) -> None:
    extra = set(stored(forest).filter(pl.col("extra"))["node_id"])
    pairs = forest.sql("FROM pairs")
    assert extra & {*pairs["chosen_id"], *pairs["rejected_id"]}


def test_an_explanation_names_the_values_in_the_mean_only(forest: Forest) -> None:
    nodes = stored(forest)
    added = nodes.filter(pl.col("extra") & pl.col("parent_id").is_not_null())
    name = added["parent_id"][0]
    because = explain(forest, name)["label_because"]
    assert because.count(",") == 2  # two values, and the outcome
    value = nodes.filter(pl.col("node_id") == name)["value"][0]
    assert f"is {value:.2f}" in because


def test_a_relabelled_extra_stays_one(forest: Forest, tmp_path: Path) -> None:
    labels = forest.manifest.labels.updated(threshold=0.2)
    malt_data.relabel(forest, labels, out=tmp_path / "other")
    other = malt_data.open_forest(tmp_path / "other")
    assert malt_data.verify(other) == []
    assert stored(other)["extra"].equals(stored(forest)["extra"])
    assert other.manifest.spec.adaptive == Adaptive()


@pytest.mark.parametrize("damage", ["unmarked", "missing", "marked"])
def test_verify_finds_damaged_extras(questions: Path, tmp_path: Path, damage: str) -> None:
    forest = grow(questions, tmp_path / "f")
    (path,) = forest.parts.paths()
    table = pq.read_table(path, partitioning=None)
    frame = pl.DataFrame(table)
    first = frame.filter(pl.col("extra") & (pl.col("depth") == 3))["node_id"][0]
    at = pl.col("node_id") == first
    if damage == "unmarked":
        frame = frame.with_columns(extra=pl.col("extra") & ~at)
    elif damage == "marked":
        is_first = pl.col("node_id") == frame["node_id"][0]
        frame = frame.with_columns(extra=pl.col("extra") | is_first)
    else:
        frame = frame.with_columns(sample=pl.when(at).then(40).otherwise("sample").cast(pl.Int16))
    columns = frame.select(NODES.names).to_arrow().cast(table.schema)
    pq.write_table(columns.replace_schema_metadata(table.schema.metadata), path)
    assert malt_data.verify(forest)


def test_a_manifest_without_it_does_not_mention_it() -> None:
    assert "adaptive" not in BuildSpec().model_dump_json()
    spec = BuildSpec(adaptive={"most": 3})
    assert BuildSpec(**spec.model_dump()) == spec
    assert spec.chain.branching == (2, 2, 2)
    assert BuildSpec(adaptive=True, n=3).chain.branching == (3, 3, 3)


def test_values_are_unbiased_although_sampling_depends_on_what_was_seen() -> None:
    """Leaves are right with a known chance; neither base nor extra leaves may drift from it."""
    source, rule = random.Random(3), Adaptive()
    drift: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(500):
        chance = source.random()
        rewards = {path: float(source.random() < chance) for path in tree([0] * 8)}
        while more := lacking(tree_labels(rewards, BRANCHING, Labels()), BRANCHING, rule):
            for parent in more:
                size = len(parent)
                children = {path[size] for path in rewards if path[:size] == parent}
                below = product(range(2), repeat=2 - size)
                ends = [(*parent, len(children), *rest) for rest in below]
                rewards |= {path: float(source.random() < chance) for path in ends}
        for path, reward in rewards.items():
            drift[max(path) >= 2].append(reward - chance)
    for differences in drift.values():
        assert abs(sum(differences) / len(differences)) < 0.025
