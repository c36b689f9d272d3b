"""verify reports every kind of damage, and nothing for an intact forest."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from shell import malt
from synthetic import make_forest

from malt_data.exporters.export import export
from malt_data.forests.forest import Forest, open_forest
from malt_data.forests.labels import stamped
from malt_data.forests.verify import verify
from malt_data.storage.parquet import write_table


@pytest.fixture
def forest(tmp_path: Path) -> Forest:
    return make_forest(tmp_path / "f", trees=4)


def test_an_intact_forest_has_no_problems(forest: Forest) -> None:
    assert verify(forest) == []
    forest.parts.compact()
    assert verify(open_forest(forest.folder)) == []


leaf = pl.col("depth") == 3
DAMAGE: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str]] = {
    "label": (lambda f: f.with_columns(label=~pl.col("label")), "differ when recomputed"),
    "value": (lambda f: f.with_columns(value=pl.col("value") * 0.9), "differ when recomputed"),
    "leaves": (lambda f: f.with_columns(leaves=pl.col("leaves") + 1), "differ when recomputed"),
    "reward": (
        lambda f: f.with_columns(reward=pl.when(leaf).then(1 - pl.col("reward"))),
        "do not follow from the verdict",
    ),
    "answer": (
        lambda f: f.with_columns(answer=pl.lit("3")).with_columns(
            verdict=pl.when(pl.col("verdict") == "unanswered")
            .then(pl.lit("wrong"))
            .otherwise("verdict")
        ),
        "differ when graded again",
    ),
    "correct": (lambda f: f.with_columns(correct=~pl.col("correct")), "contradict each other"),
    "verdict above the leaves": (
        lambda f: f.with_columns(
            verdict=pl.when(leaf).then("verdict").otherwise(pl.lit("wrong")),
            correct=pl.when(leaf).then("correct").otherwise(pl.lit(False)),
        ),
        "differ when graded again",
    ),
    "missing leaf": (lambda f: f.head(f.height - 1), "without exactly"),
    "double node": (lambda f: pl.concat([f, f.tail(1)]), "without exactly"),
    "id": (
        lambda f: f.with_columns(node_id=pl.col("node_id").str.replace("/g0", "/g7")),
        "disagree",
    ),
    "role": (lambda f: f.with_columns(role=pl.lit("refiner")), "disagree"),
    "parent": (lambda f: f.with_columns(parent_id=pl.col("parent_id").str.head(5)), "disagree"),
    "unknown question": (
        lambda f: f.with_columns(question_id=pl.lit("0" * 16)),
        "unknown questions",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_reported(forest: Forest, kind: str) -> None:
    damage, message = DAMAGE[kind]
    path = forest.parts.paths()[0]
    frame = damage(pl.read_parquet(path).with_columns(pl.col("role").cast(pl.String)))
    write_table(path, stamped(frame, forest.manifest.labels))
    problems = verify(open_forest(forest.folder))
    assert any(message in problem and path.name in problem for problem in problems), problems


def test_a_tree_in_two_parts_is_reported(forest: Forest) -> None:
    path = forest.parts.paths()[0]
    write_table(path.with_name("part-copy.parquet"), pq.read_table(path))
    assert any("are also in" in problem for problem in verify(open_forest(forest.folder)))


def test_a_truncated_file_is_reported(forest: Forest) -> None:
    path = forest.parts.paths()[0]
    path.write_bytes(path.read_bytes()[:100])
    assert any("corrupt" in problem for problem in verify(open_forest(forest.folder)))


def test_a_changed_question_is_reported(forest: Forest) -> None:
    path = forest.folder / "questions.parquet"
    table = pq.read_table(path)
    column = table.schema.get_field_index("question")
    changed = table.set_column(column, table.schema.field(column), [["other"] * table.num_rows])
    write_table(path, changed)
    assert any("do not match their content" in problem for problem in verify(forest))


@pytest.mark.slow
def test_the_command_reports_all_problems_where_a_part_cannot_be_read(forest: Forest) -> None:
    export(forest, "refiner_sft")
    export(forest, "verifier_sft")
    (forest.folder / "exports/verifier_sft/export.json").write_text("{")
    (path,) = forest.parts.paths()[:1]
    data = bytearray(path.read_bytes())
    data[100:2000] = bytes(1900)  # pages, not the footer
    path.write_bytes(data)
    run = malt("verify", forest.folder, "--json")
    assert run.returncode == 1
    problems = json.loads(run.stdout)["problems"]
    assert any(path.name in problem for problem in problems), problems
    for name in ("refiner_sft", "verifier_sft"):
        assert any(problem.startswith(f"exports/{name}") for problem in problems), problems
