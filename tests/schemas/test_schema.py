"""Released schema versions never change, and older ones can be read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from builders.test_build import answer
from openai_server import OpenAIServer
from shell import malt

from malt_data.errors import ForestError
from malt_data.forests.forest import open_forest
from malt_data.forests.relabel import relabel
from malt_data.forests.verify import verify
from malt_data.schemas import versions
from malt_data.schemas.forest import NODES, QUESTIONS
from malt_data.schemas.spec import Labels

FOREST_1 = Path(__file__).with_name("forest_1")
"""A forest that version 0.1.0 wrote, before `cluster`."""


def as_json(schema: pa.Schema) -> list[list[object]]:
    return [[field.name, str(field.type), field.nullable] for field in schema]


def test_forest_2_is_what_was_agreed() -> None:
    frozen = json.loads(Path(__file__).with_name("forest_2.json").read_text())
    assert as_json(QUESTIONS) == frozen["questions"]
    assert as_json(NODES) == frozen["nodes"]
    assert QUESTIONS.metadata[b"malt.schema"] == NODES.metadata[b"malt.schema"] == b"forest/2"


def test_a_forest_of_version_1_is_read_queried_and_relabelled(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(FOREST_1, folder)
    forest = open_forest(folder)
    assert forest.questions().collect()["cluster"].to_list() == [None] * 3
    assert forest.questions_dataset().schema.names == QUESTIONS.names
    assert forest.sql("SELECT count(*) FROM nodes JOIN questions USING (question_id)").item() == 60
    assert verify(forest) == []
    before = forest.sql("FROM pairs ORDER BY ALL")
    relabel(forest, Labels(threshold=0.7))
    relabel(open_forest(folder), Labels())
    again = open_forest(folder)
    assert again.manifest.format == "forest/2"
    assert again.sql("FROM pairs ORDER BY ALL").equals(before)
    assert verify(again) == []


def test_a_forest_of_version_1_is_extended(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(FOREST_1, folder)
    before = open_forest(folder)
    kept = before.questions().select("question", "gold").collect().rows()
    old = before.sql("FROM nodes ORDER BY node_id")
    ids = before.questions().collect()["question_id"].to_list()
    rows = [*kept, *((f"What is {i} plus {i + 3}?", str(2 * i + 3)) for i in range(2))]
    (tmp_path / "q.jsonl").write_text(
        "".join(json.dumps({"question": text, "answer": gold}) + "\n" for text, gold in rows)
    )
    manifest = folder / "forest.json"  # the fixture was made without a file of questions
    manifest.write_text(manifest.read_text().replace('"embedded"', '"q.jsonl"'))
    with OpenAIServer(models=("m",), answer=answer) as server:
        run = malt("build", "--out", folder, "--base-url", server.base_url, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    extended = open_forest(folder)
    assert len(extended.done) == 5
    assert verify(extended) == []
    query = "FROM nodes WHERE list_contains($1, question_id) ORDER BY node_id"
    assert extended.sql(query, [ids]).equals(old)
    stamps = {extended.parts.footer(path).stamp for path in extended.parts.paths()}
    assert "forest/2" in stamps


def test_every_column_is_documented() -> None:
    for field in [*QUESTIONS, *NODES]:
        assert len(field.metadata[b"doc"]) > 5, field.name


def test_a_newer_version_is_refused_by_name() -> None:
    with pytest.raises(ForestError, match=r"forest/3.*reads up to forest/2.*pip install"):
        versions.check("forest/3", "part-1.parquet")


@pytest.mark.parametrize(
    "stamp", [None, "", "forest", "forest/x", "grove/1", "forest/0", "forest/-1"]
)
def test_a_foreign_file_is_refused(stamp: str | None) -> None:
    with pytest.raises(ForestError, match=r"part-1.parquet"):
        versions.check(stamp, "part-1.parquet")


def test_older_versions_are_upgraded_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def step(version: int) -> Callable[[pa.Table], pa.Table]:
        def apply(table: pa.Table) -> pa.Table:
            steps.append(version)
            return table.append_column(f"new_in_{version + 1}", pa.array([version]))

        return apply

    monkeypatch.setattr(versions, "VERSION", 3)
    monkeypatch.setattr(versions, "UPGRADES", {1: step(1), 2: step(2)})
    old = pa.table({"a": [0]}).replace_schema_metadata({b"malt.schema": b"forest/1"})
    assert versions.upgrade(old, "part").column_names == ["a", "new_in_2", "new_in_3"]
    assert steps == [1, 2]
