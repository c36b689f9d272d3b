"""Relabelling: same samples, new labels, and a report that counts every flip."""

import datetime as dt
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from synthetic import make_forest

from malt_data.errors import ForestError, MixError
from malt_data.exporters.export import count, to_datasets
from malt_data.exporters.selection import Selection
from malt_data.forests.create import create_forest, require_same_settings
from malt_data.forests.forest import Forest, open_forest
from malt_data.forests.labels import assign, stamped
from malt_data.forests.manifest import update_manifest
from malt_data.forests.relabel import relabel
from malt_data.forests.verify import verify
from malt_data.schemas.exports import config_named
from malt_data.schemas.manifest import BuildRecord
from malt_data.schemas.spec import Labels
from malt_data.storage.parquet import write_table


@pytest.fixture
def forest(tmp_path: Path) -> Forest:
    return make_forest(tmp_path / "f", trees=8, n=(3, 3, 3))


def nodes(forest: Forest) -> list[dict[str, Any]]:
    return open_forest(forest.folder).nodes().sort("node_id").collect().to_dicts()


def pairs(rows: list[dict[str, Any]], role: str) -> set[tuple[str, str]]:
    nodes_of_role = [row for row in rows if row["role"] == role]
    return {
        (a["node_id"], b["node_id"])
        for a, b in itertools.permutations(nodes_of_role, 2)
        if a["question_id"] == b["question_id"]
        and a["parent_id"] == b["parent_id"]
        and a["label"]
        and not b["label"]
    }


@pytest.mark.parametrize(
    "labels", [Labels(threshold=0.3), Labels(threshold=0.7), Labels(pooling="local")]
)
def test_flips_and_pairs_are_counted_exactly(forest: Forest, labels: Labels) -> None:
    before = nodes(forest)
    flips = relabel(forest, labels)
    after = nodes(forest)
    assert sum(flips["verifier"].values()) > 27
    for role, counts in flips.items():
        both = [(a, b) for a, b in zip(before, after, strict=True) if a["role"] == role]
        old, new = pairs(before, role), pairs(after, role)
        assert counts == {
            "nodes": len(both),
            "to_positive": sum(not a["label"] and b["label"] for a, b in both),
            "to_negative": sum(a["label"] and not b["label"] for a, b in both),
            "pairs_before": len(old),
            "pairs_after": len(new),
            "pairs_lost": len(old - new),
            "pairs_gained": len(new - old),
        }
    assert open_forest(forest.folder).manifest.labels == labels
    assert verify(open_forest(forest.folder)) == []


def test_only_labels_change_and_relabelling_back_restores_them(forest: Forest) -> None:
    before = nodes(forest)
    relabel(forest, Labels(threshold=0.9))
    for a, b in zip(before, nodes(forest), strict=True):
        assert {**a, "label": None} == {**b, "label": None}
    relabel(open_forest(forest.folder), Labels())
    assert nodes(forest) == before


def test_regrading_corrects_wrong_grades(forest: Forest) -> None:
    path = forest.parts.paths()[0]
    frame = pl.read_parquet(path)
    ungraded = frame.with_columns(
        answer=pl.lit(None, pl.String), correct=pl.lit(False), verdict=pl.lit("unanswered")
    ).with_columns(reward=pl.when(pl.col("depth") == 3).then(0.0))
    before = nodes(forest)
    labels = forest.manifest.labels
    write_table(path, stamped(assign(ungraded, 0.5, "global"), labels))
    assert nodes(forest) != before
    relabel(open_forest(forest.folder), labels, regrade=True)
    assert nodes(forest) == before


def test_a_dry_run_and_a_copy_leave_the_forest_unchanged(forest: Forest, tmp_path: Path) -> None:
    files = {p: p.read_bytes() for p in forest.folder.rglob("*.*") if p.is_file()}
    flips = relabel(forest, Labels(threshold=0.7), dry_run=True)
    assert relabel(forest, Labels(threshold=0.7), out=tmp_path / "copy") == flips
    assert files == {p: p.read_bytes() for p in files}
    assert verify(open_forest(tmp_path / "copy")) == []
    with pytest.raises(ForestError, match="already exists"):
        relabel(forest, Labels(), out=tmp_path / "copy")


def test_an_interrupted_relabel_is_detected_and_can_be_finished(
    forest: Forest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        relabel(forest, Labels(threshold=0.7), on_progress=interrupt)
    interrupted = open_forest(forest.folder)
    assert len(interrupted.unlabelled()) == 5
    assert any("in the middle of a relabel" in problem for problem in verify(interrupted))
    with pytest.raises(ForestError, match="middle of a relabel"):
        create_forest(forest.folder, interrupted.manifest.spec, [], {})
    config = config_named("refiner_sft")
    with pytest.raises(ForestError, match="middle of a relabel"):
        to_datasets(interrupted, config)
    with pytest.raises(ForestError, match="middle of a relabel"):
        count(interrupted, config, Selection())
    relabel(interrupted, interrupted.manifest.labels)
    assert verify(open_forest(forest.folder)) == []


def test_a_build_after_a_relabel_by_another_grader_says_how_to_go_on(forest: Forest) -> None:
    relabel(forest, Labels(grader="math"))
    relabelled = open_forest(forest.folder)
    with pytest.raises(MixError, match=r"graded by 'math', not by 'auto'.*relabel .*--grader auto"):
        require_same_settings(relabelled, relabelled.manifest.spec)
    relabel(relabelled, Labels(grader="auto"))
    again = open_forest(forest.folder)
    require_same_settings(again, again.manifest.spec)


def test_a_grader_that_cannot_read_the_golds_is_refused(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=2)
    before = nodes(forest)
    with pytest.raises(ForestError, match="cannot be graded as 'choice'"):
        relabel(forest, Labels(grader="choice"))
    assert nodes(forest) == before


def test_the_command_prints_flips(forest: Forest) -> None:
    command = [
        sys.executable,
        "-m",
        "malt_data",
        "relabel",
        str(forest.folder),
        "--threshold",
        "0.8",
    ]
    run = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    report = json.loads(run.stdout)
    assert report["labels"]["threshold"] == 0.8
    assert set(report["flips"]) == {"generator", "verifier", "refiner"}
    wrong = subprocess.run([*command[:-1], "1.5"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "threshold" in wrong.stderr


def test_a_build_record_added_after_the_forest_was_opened_is_kept(forest: Forest) -> None:
    run = BuildRecord(
        started=dt.datetime.now(dt.UTC),
        trees=8,
        failed=0,
        completions=312,
        prompt_tokens=3120,
        completion_tokens=1560,
        seconds=1.5,
        tokens_per_second=1040.0,
        peak_memory=2**30,
        peak_gpu_memory=None,
        cores=2,
        gpu=None,
    )
    update_manifest(forest.folder, lambda manifest: {"runs": [*manifest.runs, run]})
    assert forest.manifest.runs == []
    relabel(forest, Labels(threshold=0.7))
    after = open_forest(forest.folder).manifest
    assert after.runs == [run]
    assert after.labels.threshold == 0.7
