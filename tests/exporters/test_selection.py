"""Selection of positives and of ungraded nodes, against independent code."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow.parquet as pq
import pytest
from exporters.derived import derive
from openai_server import OpenAIServer
from synthetic import ALL, make_forest

from malt_data.builders.build import build_forest
from malt_data.exporters.explain import explain
from malt_data.exporters.export import export
from malt_data.exporters.selection import REASONS, Selection
from malt_data.forests.forest import Forest, open_forest
from malt_data.schemas.exports import config_named
from malt_data.schemas.spec import BuildSpec

ROLES = ("generator", "verifier", "refiner")
READINGS: tuple[Literal["all", "paired", "mixed"], ...] = ("all", "paired", "mixed")


def answer(messages: list[dict[str, str]], seed: int | None, sample: int) -> str:
    """Right or wrong by prompt and seed; more often right for larger numbers."""
    a, b = map(int, re.findall(r"(\d+) plus (\d+)", messages[-1]["content"])[0])
    die = hashlib.sha256(json.dumps([messages, seed, sample]).encode()).digest()[0]
    return f"Sample {die} of it.\nFinal Answer: {a + b + (die > 80 + 20 * a)}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    """A forest grown through a server, with trees of one and of both outcomes."""
    folder = tmp_path_factory.mktemp("served")
    rows = [{"question": f"What is {i} plus 3?", "answer": str(i + 3)} for i in range(9)]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with OpenAIServer(models=("m",), answer=answer) as server:
        spec = {"questions": str(folder / "q.jsonl"), "engine": "openai", "model": "m"}
        build_forest(BuildSpec(**spec, base_url=server.base_url, n=3), folder / "f")
    return open_forest(folder / "f")


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.parquet")):
        found.setdefault(path.name.partition("-")[0], []).extend(pq.read_table(path).to_pylist())
    return found


def ordered(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    return {split: sorted(json.dumps(r, sort_keys=True) for r in rows[split]) for split in rows}


def names(rows: dict[str, list[dict[str, Any]]]) -> set[str]:
    return {row["node_id"] for found in rows.values() for row in found}


@pytest.mark.parametrize("role", ROLES)
def test_each_choice_of_positives_matches_independent_code(
    served: Forest, tmp_path: Path, role: str
) -> None:
    config = config_named(f"{role}_sft")
    kept = {}
    for reading in READINGS:
        chosen = Selection(positives=reading, validation=0.3)
        report = export(served, config, chosen, tmp_path / reading)
        rows, dropped = derive(served, config, chosen)
        assert ordered(read(tmp_path / reading)) == ordered(rows)
        assert report.dropped == {reason: n for reason, n in dropped.items() if n}
        kept[reading] = names(rows)
    assert kept["paired"] <= kept["mixed"] <= kept["all"]
    assert kept["paired"] < kept["all"]
    if role != "generator":  # whose siblings are all the generators of the question
        assert kept["paired"] < kept["mixed"]
    pairs, _ = derive(served, config_named(f"{role}_dpo"), Selection())
    assert kept["paired"] == {row["chosen_id"] for found in pairs.values() for row in found}


# --- what the grader could not decide -------------------------------------------------------------


@pytest.fixture(scope="module")
def undecided(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    folder = tmp_path_factory.mktemp("undecided") / "f"
    return make_forest(folder, trees=12, n=(3, 3, 3), seed=3, timeouts=0.04)


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.name)
def test_rows_that_depend_on_an_undecided_answer_are_not_exported(
    undecided: Forest, tmp_path: Path, config: Any
) -> None:
    for reading in READINGS if config.format.name in ("sft", "trajectory") else ("all",):
        chosen = Selection(positives=reading, keep_truncated=True)
        report = export(undecided, config, chosen, tmp_path / reading)
        rows, dropped = derive(undecided, config, chosen)
        assert ordered(read(tmp_path / reading)) == ordered(rows)
        assert report.dropped == {reason: n for reason, n in dropped.items() if n}
        assert report.total
        assert report.dropped["ungraded"]


def test_keep_ungraded_counts_undecided_answers_as_wrong(undecided: Forest, tmp_path: Path) -> None:
    for name in ("refiner_sft", "verifier_dpo", "generator_kto"):
        config = config_named(name)
        chosen = Selection(keep_ungraded=True, keep_truncated=True)
        report = export(undecided, config, chosen, tmp_path / name)
        rows, _ = derive(undecided, config, chosen)
        assert ordered(read(tmp_path / name)) == ordered(rows)
        assert "ungraded" not in report.dropped
        assert report.total > export(undecided, config, None, tmp_path / name).total


def test_only_the_leaves_below_a_node_count(undecided: Forest, tmp_path: Path) -> None:
    """The answer of an inner node enters no value, so its timeout drops nothing."""
    nodes = undecided.nodes().collect()
    inner = nodes.filter((pl.col("role") == "verifier") & (pl.col("verdict") == "timeout"))
    export(undecided, config_named("verifier_value"), None, tmp_path / "out")
    kept = names(read(tmp_path / "out"))
    assert kept & set(inner["node_id"])
    leaf = nodes.filter((pl.col("role") == "refiner") & (pl.col("verdict") == "timeout")).row(
        0, named=True
    )
    assert leaf["parent_id"] not in kept


def test_explain_says_that_a_node_is_ungraded_and_its_ancestors_too(undecided: Forest) -> None:
    nodes = undecided.nodes().collect()
    leaf = nodes.filter((pl.col("role") == "refiner") & (pl.col("verdict") == "timeout"))
    steps = leaf["node_id"][0].split("/")
    for depth, role in enumerate(ROLES, 2):
        facts = explain(undecided, "/".join(steps[:depth]))
        (row,) = facts["exports"][f"{role}_sft"]["rows"]
        assert row["reason"] == "ungraded"
    assert "could not decide" in REASONS["ungraded"]


def test_trajectories_can_be_selected_by_confidence(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=8, timeouts=0.2)
    config = config_named("trajectory")
    plain = export(forest, config, Selection(keep_ungraded=True))
    sure = export(forest, config, Selection(keep_ungraded=True, min_confidence=0.9))
    assert sure.rows == plain.rows  # a right path ends with a leaf, whose label is certain
