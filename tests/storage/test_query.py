"""SQL can read the documented views, and nothing outside the forest."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from shell import malt
from synthetic import make_forest

from malt_data.cli import main
from malt_data.errors import QueryError
from malt_data.forests.forest import Forest, open_forest
from malt_data.storage.query import _CONFIG


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    return make_forest(tmp_path_factory.mktemp("query") / "f", trees=6)


def plain_nodes(forest: Forest) -> list[dict[str, object]]:
    return [
        r
        for p in sorted(forest.folder.glob("nodes/*.parquet"))
        for r in pq.read_table(p).to_pylist()
    ]


def test_pairs_are_all_sibling_pairs_of_differing_label(forest: Forest) -> None:
    nodes = plain_nodes(forest)
    expected = {
        (
            a["role"],
            a["parent_id"],
            a["question_id"],
            a["node_id"],
            b["node_id"],
            a["value"],
            b["value"],
        )
        for a, b in itertools.product(nodes, nodes)
        if a["question_id"] == b["question_id"]
        and a["parent_id"] == b["parent_id"]
        and a["depth"] == b["depth"]
        and a["label"]
        and not b["label"]
    }
    rows = forest.sql(
        "SELECT role, parent_id, question_id, chosen_id, rejected_id, chosen_value, "
        "rejected_value FROM pairs"
    ).rows()
    assert len(rows) == len(expected)
    assert set(rows) == expected
    assert {row[0] for row in rows} == {"generator", "verifier", "refiner"}


def test_trajectories_are_one_row_per_leaf_with_its_whole_path(forest: Forest) -> None:
    by_id = {node["node_id"]: node for node in plain_nodes(forest)}
    leaves = [node for node in by_id.values() if node["depth"] == 3]
    rows = forest.sql("FROM trajectories").to_dicts()
    assert len(rows) == len(leaves)
    assert {row["leaf_id"] for row in rows} == {leaf["node_id"] for leaf in leaves}
    for row in rows:
        leaf = by_id[row["leaf_id"]]
        path = [leaf]
        while path[0]["parent_id"]:
            path.insert(0, by_id[path[0]["parent_id"]])
        assert row == {
            "question_id": leaf["question_id"],
            "leaf_id": leaf["node_id"],
            "node_ids": [node["node_id"] for node in path],
            "roles": [node["role"] for node in path],
            "texts": [node["text"] for node in path],
            "answers": [node["answer"] for node in path],
            "answer": leaf["answer"],
            "reward": leaf["reward"],
        }


def test_role_stats_count_the_nodes(forest: Forest) -> None:
    nodes = plain_nodes(forest)
    rows = {row["role"]: row for row in forest.sql("FROM role_stats").to_dicts()}
    assert list(rows) == ["generator", "verifier", "refiner"]
    for role, row in rows.items():
        mine = [node for node in nodes if node["role"] == role]
        assert row["nodes"] == len(mine)
        assert row["positives"] == sum(bool(node["label"]) for node in mine)
        assert row["unanswered"] == sum(node["answer"] is None for node in mine)
        assert row["truncated"] == sum(node["finish_reason"] == "length" for node in mine)
        assert row["completion_tokens"] == 5 * len(mine)
        assert row["seconds"] == 0.5 * len(mine)
        assert row["mean_value"] == pytest.approx(sum(n["value"] for n in mine) / len(mine))  # type: ignore[misc]
    counted = forest.sql("SELECT role, count(*) FROM pairs GROUP BY role").rows()
    assert {role: row["usable_pairs"] for role, row in rows.items() if row["usable_pairs"]} == dict(
        counted
    )


def test_duplicate_column_names_are_made_unique(forest: Forest) -> None:
    frame = forest.sql(
        "SELECT g.text, v.text FROM nodes v JOIN nodes g ON v.parent_id = g.node_id ORDER BY 2 DESC"
    )
    assert frame.columns == ["text", "text_1"]
    assert frame["text_1"].is_sorted(descending=True)


def test_values_are_bound_not_interpolated(forest: Forest) -> None:
    assert forest.sql("SELECT ? AS x", ["'; DROP VIEW nodes; --"]).row(0) == (
        "'; DROP VIEW nodes; --",
    )


ESCAPES = [
    "COPY (SELECT 1) TO '{victim}'",
    "COPY nodes TO '{victim}' (FORMAT parquet)",
    "WITH x AS (COPY (SELECT 1) TO '{victim}') FROM x",
    "EXPORT DATABASE '{folder}'",
    "ATTACH '{victim}.db'",
    "ATTACH '{victim}.db' AS d; CREATE TABLE d.t AS SELECT 1",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_parquet('{part}')",
    "SELECT * FROM parquet_metadata('{part}')",
    "SELECT * FROM glob('/*')",
    "FROM read_json('http://127.0.0.1:9/x')",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "RESET enable_external_access",
    "SET lock_configuration = false",
    "SET allowed_directories = ['/']",
    "PRAGMA enable_external_access = true",
    "SELECT * FROM forest",
    "SELECT * FROM sys.modules",
    "SELECT getenv('HOME')",
    "CREATE SECRET s (TYPE s3)",
    "IMPORT DATABASE '{folder}'",
    "CALL start_ui()",
]


@pytest.mark.parametrize("query", ESCAPES)
def test_a_query_cannot_leave_the_forest(forest: Forest, tmp_path: Path, query: str) -> None:
    part = sorted(forest.folder.glob("nodes/*.parquet"))[0]
    forest.sql("FROM role_stats")  # leaves a lock file
    before = {path: path.read_bytes() for path in forest.folder.rglob("*") if path.is_file()}
    text = query.format(victim=tmp_path / "victim", folder=tmp_path / "out", part=part)
    with pytest.raises(QueryError) as caught:
        forest.sql(text)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert before == {
        path: path.read_bytes() for path in forest.folder.rglob("*") if path.is_file()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    [
        "SELECT length(repeat('x', 30000000000))",
        "SELECT nonsense FROM nodes",
        "SELECT * FROM nowhere",
        "SELECT 'unfinished",
        "",
        ";",
        "SELECT 1/0; DROP VIEW nodes",
        "\x00",
    ],
)
def test_invalid_sql_is_one_line_and_exit_code_1(forest: Forest, query: str) -> None:
    if "\x00" in query:
        pytest.skip("no command line can carry a NUL")
    run = malt("sql", forest.folder, query)
    if run.returncode == 0:  # DuckDB may well answer; then it must be an answer
        assert run.stderr == ""
        return
    assert run.returncode == 1
    assert run.stderr.startswith("Error: ")
    assert run.stderr.count("\n") == 1
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    "query",
    [
        "SELECT list(range) FROM range(100000000000)",
        "SELECT * FROM nodes a, nodes b, nodes c, nodes d, nodes e ORDER BY a.text, b.text",
    ],
)
def test_a_query_that_needs_too_much_memory_is_one_line(
    forest: Forest,
    query: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    limit = "SELECT current_setting('memory_limit')"
    assert forest.sql(limit).item() == "7.4 GiB"
    monkeypatch.setitem(_CONFIG, "memory_limit", "100MB")  # which is full within a second
    assert forest.sql(limit).item() == "95.3 MiB"
    with pytest.raises(SystemExit, match="1"):
        main(["sql", str(forest.folder), query])
    stderr = capfd.readouterr().err  # of the process that the command forks
    assert stderr.startswith("Error: Out of Memory")
    assert stderr.count("\n") == 1


@pytest.mark.slow
def test_every_format_has_the_same_rows(forest: Forest, tmp_path: Path) -> None:
    query = "SELECT node_id, value, label, [sample] AS path FROM nodes ORDER BY node_id"
    expected = forest.sql(query).to_dicts()
    assert json.loads(malt("sql", forest.folder, query, "--format", "json").stdout) == expected
    assert json.loads(malt("sql", forest.folder, query, "--json").stdout) == expected
    lines = malt("sql", forest.folder, query, "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == expected
    csv = malt("sql", forest.folder, query, "--format", "csv").stdout.splitlines()
    assert csv[0] == "node_id,value,label,path"
    assert len(csv) == 1 + len(expected)
    target = tmp_path / "rows.parquet"
    with target.open("wb") as file:  # of bytes, which `malt` would decode
        command = ["-m", "malt_data", "sql", str(forest.folder), query, "--format", "parquet"]
        subprocess.run([sys.executable, *command], stdout=file, check=True)
    assert pq.read_table(target).to_pylist() == expected


def test_the_forest_is_optional(forest: Forest, tmp_path: Path) -> None:
    command = ["sql", "SELECT count(*) AS n FROM questions"]
    run = malt(*command, env={**os.environ, "MALT_FOREST": str(forest.folder)})
    assert run.stdout == "n\n6\n"
    lost = malt(*command, cwd=tmp_path)
    assert lost.returncode == 1
    assert "malt-data build" in lost.stderr


def test_python_gets_a_polars_frame(forest: Forest) -> None:
    again = open_forest(forest.folder)
    assert again.nodes().collect().height == again.sql("SELECT count(*) FROM nodes").item()
    assert again.questions().collect().height == 6


def test_a_view_is_found_however_a_query_comes_by_its_name(forest: Forest) -> None:
    expected = forest.sql("FROM verdicts").rows()
    assert expected
    assert forest.sql("FROM query_table('ver' || 'dicts')").rows() == expected
    assert forest.sql('FROM "Verdicts"').rows() == expected
    assert forest.sql("SELECT spoken('**Yes**') AS said FROM nodes LIMIT 1").item() == "Yes**"


@pytest.mark.parametrize("listing", ["SHOW TABLES", "SELECT view_name AS name FROM duckdb_views()"])
def test_every_view_is_listed(listing: str, forest: Forest) -> None:
    for query in (listing, f"FROM ({listing}) WHERE name <> 'nodes'"):
        assert {*forest.views} <= {*forest.sql(query)["name"]}
