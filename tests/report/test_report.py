"""What `report` writes, refuses and leaves out."""

import base64
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hub_server import Hub, User
from shell import malt
from synthetic import begin, make_forest

from malt_data.errors import ForestError, SpecError
from malt_data.evaluation.results import open_results
from malt_data.exporters.export import export
from malt_data.forests.forest import Forest
from malt_data.report.report import write_report

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "steps" / "warm"


def block(page: str, name: str) -> Any:
    """Return the content of a block of data in a page."""
    (packed,) = re.findall(rf'<script type="text/plain" id="{name}">(.*?)</script>', page)
    stream = pa.CompressedInputStream(pa.BufferReader(base64.b64decode(packed)), "zstd")
    return json.loads(stream.read())


@pytest.fixture
def forest(tmp_path: Path) -> Forest:
    return make_forest(tmp_path / "trees", trees=70, n=(1, 2, 2))


def test_every_tree_and_text_is_in_the_page(forest: Forest, tmp_path: Path) -> None:
    report = write_report(forest, tmp_path / "report.html")
    page = report.path.read_text("utf-8")
    assert (report.shown, report.total, report.size) == (70, 70, report.path.stat().st_size)
    index = block(page, "block-0")
    nodes = forest.nodes().collect()
    found = {
        f"{name}/{node[4]}": node[0]
        for number in (1, 2)
        for name, tree in zip(
            index["id"][64 * (number - 1) :], block(page, f"block-{number}"), strict=False
        )
        for node in tree["nodes"]
    }
    assert found == dict(nodes.select("node_id", "text").rows())


def test_pairs_say_what_the_export_made_of_them(forest: Forest, tmp_path: Path) -> None:
    report = export(forest, "refiner_dpo")
    page = write_report(forest, tmp_path / "report.html").path.read_text("utf-8")
    became = [
        what
        for number in (1, 2)
        for tree in block(page, f"block-{number}")
        for role, _, _, what in tree["pairs"]
        if role == "refiner"
    ]
    counts = {what: became.count(what) for what in set(became)}
    assert counts == {what: n for what, n in {**report.rows, **report.dropped}.items() if n}


def test_a_budget_keeps_the_smallest_ids_and_says_so(forest: Forest, tmp_path: Path) -> None:
    report = write_report(forest, tmp_path / "report.html", budget=2_000)
    page = report.path.read_text("utf-8")
    assert 0 < report.shown < 70
    assert block(page, "block-0")["id"] == sorted(forest.done)[: report.shown]
    facts = block(page, "facts")
    assert facts["sample"] == {
        "shown": report.shown, "trees": 70, "too_large": 0, "budget": 2_000
    }  # fmt: skip
    (whole,) = [table for table in facts["tables"] if table["id"] == "forest"]
    assert whole["rows"][0][whole["columns"].index("trees")] == 70


def test_a_tree_of_many_megabytes_is_left_out_and_counted(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "trees", trees=3)
    large = min(forest.done)
    source = random.Random(0)
    long = ["".join(chr(source.randrange(0x4E00, 0x9F00)) for _ in range(60_000)) for _ in range(9)]
    for path in forest.parts.paths():  # a part a tree
        one = Forest(forest.folder, forest.manifest)
        if large in one.parts.trees_in(path):
            one.parts.paths = lambda path=path: [path]  # type: ignore[method-assign,misc]
            begin(one, long)
    report = write_report(forest, tmp_path / "report.html", budget=400_000)
    page = report.path.read_text("utf-8")
    assert report.shown == 2
    assert large not in block(page, "block-0")["id"]
    assert block(page, "facts")["sample"]["too_large"] == 1


def test_what_is_not_a_report_is_kept(forest: Forest, tmp_path: Path) -> None:
    other = tmp_path / "thesis.html"
    other.write_text("<p>Three years of work.</p>")
    with pytest.raises(SpecError, match=r"is not a report and is kept. .* --out NAME.html"):
        write_report(forest, other)
    assert other.read_text() == "<p>Three years of work.</p>"
    with pytest.raises(SpecError, match="is a folder"):
        write_report(forest, tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match="is not a report"):
        write_report(forest, tmp_path / "pipe")
    write_report(forest, tmp_path / "report.html")
    killed = tmp_path / ".report.html.0123abcd.tmp"
    killed.write_text("<!doctype")
    write_report(forest, tmp_path / "report.html", title="<Again>")
    assert not killed.exists()
    assert "<title>&lt;Again&gt;</title>" in (tmp_path / "report.html").read_text("utf-8")


def test_what_has_nothing_to_show_or_compare_is_refused(forest: Forest, tmp_path: Path) -> None:
    empty = make_forest(tmp_path / "empty", trees=0)
    with pytest.raises(ForestError, match="has no trees yet"):
        write_report(empty, tmp_path / "report.html")
    with pytest.raises(SpecError, match="A forest has no settings"):
        write_report(forest, tmp_path / "report.html", against="ma")
    assert not (tmp_path / "report.html").exists()


def test_results_show_their_settings_and_every_completion(tmp_path: Path) -> None:
    results = open_results(RESULTS)
    report = write_report(results, tmp_path / "results.html", against="malt")
    page = report.path.read_text("utf-8")
    assert (report.kind, report.shown, report.total) == ("results", 100, 100)
    facts = block(page, "facts")
    assert facts["against"] == "malt"
    assert facts["played"] == results.settings
    texts = [
        turn[2]
        for number in range(1, 5)
        for question in block(page, f"block-{number}")
        for seeds in question.values()
        for passes in seeds.values()
        for turns in passes.values()
        for turn in turns
    ]
    completions = results.sql("SELECT text FROM completions")["text"].to_list()
    assert sorted(texts) == sorted(completions)


def test_a_budget_smaller_than_a_block_keeps_some_transcripts(tmp_path: Path) -> None:
    report = write_report(open_results(RESULTS), tmp_path / "results.html", budget=1_500)
    page = report.path.read_text("utf-8")
    assert report.shown == len(block(page, "block-1")) == block(page, "facts")["sample"]["shown"]
    assert 0 < report.shown < 32


def test_the_command_writes_and_pushes_a_page(forest: Forest, tmp_path: Path) -> None:
    with Hub(tmp_path / "hub") as hub:
        hub.tokens["hf_writer"] = User("ann", write=True)
        env = hub.environment(tmp_path / "home", token="hf_writer")
        words = ("report", forest.folder, "--out", "a.html", "--title", "Trees: a", "--push",
                 "ann/page", "--json")  # fmt: skip
        run = malt(*words, cwd=tmp_path, env=env)
        assert run.returncode == 0, run.stderr
        facts = json.loads(run.stdout)
        assert facts["space"] == f"{hub.url}/spaces/ann/page"
        files = hub.files("space", "ann/page")
    assert files["index.html"] == (tmp_path / "a.html").read_bytes()
    assert files["README.md"].decode().startswith("---\ntitle: 'Trees: a'\nsdk: static\n")


def test_a_push_without_a_hub_keeps_the_page(forest: Forest, tmp_path: Path) -> None:
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_x", "HF_HOME": str(tmp_path / "h"),
           "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}  # fmt: skip
    run = malt("report", forest.folder, "--push", "ann/page", cwd=tmp_path, env=env)
    assert run.returncode == 1
    assert "the Hub is unreachable" in run.stderr
    assert "Traceback" not in run.stderr
    assert (tmp_path / "report.html").exists()


def test_a_space_that_cannot_be_is_refused_before_the_work(forest: Forest, tmp_path: Path) -> None:
    for repo, why in [("ann", "use user/name"), ("ann/page@v1", "pass the repo without @")]:
        run = malt("report", forest.folder, "--push", repo, cwd=tmp_path)
        assert (run.returncode, why in run.stderr) == (2, True), run.stderr
    assert not (tmp_path / "report.html").exists()
