"""The sweep: what each setting would give, with nothing written."""

import json
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner
from synthetic import make_forest

from malt_data.cli import main
from malt_data.errors import ForestError
from malt_data.forests.confidence import confidence_by_role
from malt_data.forests.forest import Forest, open_forest
from malt_data.forests.manifest import update_manifest
from malt_data.forests.relabel import relabel
from malt_data.forests.sweep import sweep
from malt_data.report.sweep import draw_sweep
from malt_data.schemas.spec import Labels, Pooling


@pytest.fixture
def forest(tmp_path: Path) -> Forest:
    return make_forest(tmp_path / "f", trees=8, n=(3, 3, 3))


def stored(folder: Path) -> dict[str, bytes]:
    """Return every file but the lock, which any reader takes."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): path.read_bytes() for path in files}


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_it_foretells_what_a_relabel_does(forest: Forest, pooling: Pooling) -> None:
    rows = [row for row in sweep(forest, [0.7]) if row["pooling"] == pooling]
    flips = relabel(forest, Labels(threshold=0.7, pooling=pooling))
    after = {row["role"]: row for row in open_forest(forest.folder).sql(
        "SELECT role::VARCHAR AS role, count(*) FILTER (label) AS positives FROM nodes GROUP BY ALL"
    ).to_dicts()}  # fmt: skip
    sure = confidence_by_role(open_forest(forest.folder))
    assert [row["role"] for row in rows] == ["generator", "verifier", "refiner"]
    for row in rows:
        counts = flips[row["role"]]
        assert row["positives"] == after[row["role"]]["positives"]
        assert row["pairs"] == counts["pairs_after"]
        assert row["flips"] == counts["to_positive"] + counts["to_negative"]
        assert row["confidence"] == pytest.approx(sure[row["role"]]["mean_confidence"])


def test_the_present_labels_are_a_row_without_flips(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=4, n=(3, 3, 3), threshold=0.35)
    rows = sweep(forest)
    assert len(rows) == 2 * 10 * 3
    present = [row for row in rows if (row["threshold"], row["pooling"]) == (0.35, "global")]
    assert [row["flips"] for row in present] == [0, 0, 0]


def test_the_command_writes_nothing_but_the_figure(forest: Forest, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    before = stored(forest.folder)
    figure = tmp_path / "sweep.svg"
    done = CliRunner().invoke(
        main, ["relabel", str(forest.folder), "--sweep", "--figure", str(figure), "--json"]
    )
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["sweep"]
    assert len(rows) == 2 * 9 * 3
    assert stored(forest.folder) == before
    assert figure.read_bytes().startswith(b"<?xml")
    first = figure.read_bytes()
    draw_sweep(rows, figure)
    assert figure.read_bytes() == first


def test_the_table_fits_80_columns(forest: Forest) -> None:
    done = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["relabel", str(forest.folder), "--sweep"])
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + 2 * 9 * 3  # no row is wrapped
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "options",
    [["--figure", "x.svg"], ["--sweep", "--threshold", "0.5"], ["--sweep", "--out", "copy"]],
)
def test_options_that_make_no_sense_together_are_refused(
    forest: Forest, options: list[str]
) -> None:
    done = CliRunner().invoke(main, ["relabel", str(forest.folder), *options])
    assert done.exit_code == 2
    assert "sweep" in done.stderr


def test_an_unknown_kind_of_figure_is_refused_before_the_work(forest: Forest) -> None:
    with pytest.raises(ForestError, match=r"\.svg, \.png, \.pdf"):
        draw_sweep([], forest.folder / "sweep.txt")
    assert not (forest.folder / "sweep.txt").exists()


def test_a_forest_in_the_middle_of_a_relabel_is_refused(forest: Forest) -> None:
    update_manifest(forest.folder, lambda _: {"labels": Labels(threshold=0.7)})
    with pytest.raises(ForestError, match="middle of a relabel"):
        sweep(open_forest(forest.folder))


def test_no_trees_give_empty_rows(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=0, n=(3, 3, 3))
    assert {row["nodes"] for row in sweep(forest, [0.5])} == {0}
