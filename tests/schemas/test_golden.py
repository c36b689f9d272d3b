"""Released formats do not change: rows, labels, reports and files match the golden ones.

What they are and how they came about stands in `golden.py`.
"""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from schemas import golden
from synthetic import ALL

from malt_data import Results, open_results
from malt_data.evaluation.predictions import predict
from malt_data.forests.forest import open_forest
from malt_data.forests.verify import verify
from malt_data.prompts.templates import kept_kinds
from malt_data.schemas.evaluation import COMPLETIONS, PREDICTIONS


def stored(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def as_json(content: object) -> Any:
    return json.loads(json.dumps(content))


def assert_same(found: Any, kept: Any, place: str = "") -> None:
    """Assert that two documents are equal: keys in order, floats up to their last digits."""
    if isinstance(kept, float) and isinstance(found, float):
        assert math.isclose(found, kept, rel_tol=1e-9, abs_tol=1e-12), place
        return
    assert type(found) is type(kept), f"{place}: {found!r}, kept is {kept!r}"
    if isinstance(kept, dict):
        assert list(found) == list(kept), place
        for key in kept:
            assert_same(found[key], kept[key], f"{place}/{key}")
    elif isinstance(kept, list):
        assert len(found) == len(kept), place
        for index, (one, other) in enumerate(zip(found, kept, strict=True)):
            assert_same(one, other, f"{place}/{index}")
    else:
        assert found == kept, place


# --- columns --------------------------------------------------------------------------------------


def test_export_1_is_what_was_agreed() -> None:
    assert_same(as_json(golden.export_columns()), stored(golden.HERE / "export_1.json"))
    assert {config.schema.metadata[b"malt.schema"] for config in ALL} == {b"export/1"}


def test_eval_1_is_what_was_agreed() -> None:
    assert_same(as_json(golden.evaluation_columns()), stored(golden.HERE / "eval_1.json"))
    assert COMPLETIONS.metadata == PREDICTIONS.metadata == {b"malt.schema": b"eval/1"}


# --- a forest -------------------------------------------------------------------------------------


def test_a_build_makes_the_stored_forest_again(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    new = golden.build(tmp_path / "new")
    kept = golden.copied("forest_2", tmp_path)
    assert_same(as_json(golden.nodes(new)), as_json(golden.nodes(kept)))
    assert new.questions().collect().equals(kept.questions().collect())
    assert new.manifest.spec.model_copy(update={"base_url": None}) == kept.manifest.spec
    assert new.manifest.labelled == kept.manifest.labelled
    assert new.manifest.questions == kept.manifest.questions
    facts = stored(new.folder / "forest.json")
    assert [*facts] == [*stored(kept.folder / "forest.json")]
    assert facts["schema"] == "forest/2"


def test_a_relabel_gives_the_stored_flips(tmp_path: Path) -> None:
    found = golden.relabelled(tmp_path)
    assert_same(as_json(found), stored(golden.GOLDEN / "relabel.json"))
    assert verify(open_forest(tmp_path / "forest_2")) == []


def test_every_view_of_a_stored_forest_is_unchanged(tmp_path: Path) -> None:
    assert_same(as_json(golden.forest_views(tmp_path)), stored(golden.GOLDEN / "forests.json"))


@pytest.mark.parametrize("name", golden.FORESTS)
def test_a_stored_forest_is_sound(tmp_path: Path, name: str) -> None:
    assert verify(golden.copied(name, tmp_path)) == []


# --- exports --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Any]]:
    return golden.exports(tmp_path_factory.mktemp("exports"))


def test_every_export_report_is_unchanged(
    exported: tuple[dict[str, Any], list[Any]],
) -> None:
    kept = stored(golden.GOLDEN / "exports.json")
    facts, _ = exported
    assert_same(facts["sampling"], kept["sampling"])
    assert [*facts["exports"]] == [*kept["exports"]]
    for name, one in facts["exports"].items():
        assert_same(one["report"], kept["exports"][name]["report"], name)
        assert [*one["shards"]] == [*kept["exports"][name]["shards"]]


def test_every_export_holds_the_same_rows_in_the_same_order(
    exported: tuple[dict[str, Any], list[Any]],
) -> None:
    assert_same(as_json(exported[1]), golden.read_rows())


def test_every_shard_has_the_same_bytes(exported: tuple[dict[str, Any], list[Any]]) -> None:
    kept = stored(golden.GOLDEN / "exports.json")
    if pa.__version__ != kept["pyarrow"]:
        pytest.skip(f"the shards were written by pyarrow {kept['pyarrow']}, which signs them")
    for name, one in exported[0]["exports"].items():
        assert one["shards"] == kept["exports"][name]["shards"], name


# --- an evaluation --------------------------------------------------------------------------------


@pytest.fixture
def results() -> Results:
    return open_results(golden.HERE / golden.EVALUATION)


def test_the_stored_predictions_follow_from_the_completions(results: Results) -> None:
    kept = pq.read_table(results.folder / "predictions.parquet")
    found = predict(results.folder)
    assert kept.schema.metadata[b"malt.schema"] == b"eval/1"
    assert found.column_names == kept.column_names
    for name in kept.column_names:
        assert found[name].to_pylist() == kept[name].to_pylist(), name


def test_every_view_and_table_is_unchanged(results: Results) -> None:
    assert_same(golden.views(results), stored(golden.GOLDEN / "results.json"))


def test_an_evaluation_plays_the_stored_completions_again(results: Results, tmp_path: Path) -> None:
    new = open_results(golden.play(tmp_path))
    assert_same(as_json(golden.completions(new)), as_json(golden.completions(results)))
    assert new.predictions().drop("seconds").equals(results.predictions().drop("seconds"))
    outside = {"runs"}
    kept = results.manifest["spec"]["prompts"]  # a kind may have been added since
    new.manifest["spec"]["prompts"] = kept_kinds(new.manifest["spec"]["prompts"], kept)
    assert [*new.manifest] == [*results.manifest]
    for key in set(new.manifest) - outside:
        assert new.manifest[key] == results.manifest[key], key
