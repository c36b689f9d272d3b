"""Version 1 is released: these tests freeze it. A change here is a change to people's data."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from malt_data.errors import ForestError
from malt_data.schemas import versions
from malt_data.schemas.forest import NODES, QUESTIONS

GOLDEN = Path(__file__).with_name("forest_1.json")


def as_json(schema: pa.Schema) -> list[list[object]]:
    return [[field.name, str(field.type), field.nullable] for field in schema]


def test_forest_1_never_changes() -> None:
    frozen = json.loads(GOLDEN.read_text())
    assert as_json(QUESTIONS) == frozen["questions"]
    assert as_json(NODES) == frozen["nodes"]
    assert QUESTIONS.metadata[b"malt.schema"] == NODES.metadata[b"malt.schema"] == b"forest/1"


def test_every_column_says_what_it_holds() -> None:
    for field in [*QUESTIONS, *NODES]:
        assert len(field.metadata[b"doc"]) > 5, field.name


def test_a_newer_version_is_refused_by_name() -> None:
    with pytest.raises(ForestError, match=r"forest/2.*reads up to forest/1.*pip install"):
        versions.check("forest/2", "part-1.parquet")


@pytest.mark.parametrize(
    "stamp", [None, "", "forest", "forest/x", "grove/1", "forest/0", "forest/-1"]
)
def test_a_foreign_file_is_refused(stamp: str | None) -> None:
    with pytest.raises(ForestError, match=r"part-1.parquet"):
        versions.check(stamp, "part-1.parquet")


def test_older_versions_are_upgraded_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def step(version: int) -> versions.Callable[[pa.Table], pa.Table]:
        def apply(table: pa.Table) -> pa.Table:
            steps.append(version)
            return table.append_column(f"new_in_{version + 1}", pa.array([version]))

        return apply

    monkeypatch.setattr(versions, "VERSION", 3)
    monkeypatch.setattr(versions, "UPGRADES", {1: step(1), 2: step(2)})
    old = pa.table({"a": [0]}).replace_schema_metadata({b"malt.schema": b"forest/1"})
    assert versions.upgrade(old, "part").column_names == ["a", "new_in_2", "new_in_3"]
    assert steps == [1, 2]
