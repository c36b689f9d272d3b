"""`explain` against the exports, independent code, and values recomputed by hand."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from exporters.derived import derive
from synthetic import ALL, make_forest

from malt_data.cli import main
from malt_data.errors import ForestError
from malt_data.exporters.explain import explain
from malt_data.exporters.export import export
from malt_data.exporters.rows import Rows, chunks
from malt_data.exporters.selection import REASONS, Selection
from malt_data.forests.forest import Forest, open_forest
from malt_data.forests.relabel import relabel
from malt_data.schemas.exports import Config, config_named
from malt_data.schemas.spec import Labels

Node = dict[str, Any]
Fate = tuple[str, str | None]
"""(split, reason for leaving it out)"""


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    return make_forest(tmp_path_factory.mktemp("forest") / "f", trees=2, n=(2, 2, 3), seed=286)


@pytest.fixture(scope="module")
def result(forest: Forest) -> dict[str, dict[str, Any]]:
    """The explanation of every node without exports."""
    return {name: explain(forest, name) for name in nodes_of(forest)}


def nodes_of(forest: Forest) -> dict[str, Node]:
    return {row["node_id"]: row for row in forest.nodes().collect().to_dicts()}


def fates(result: dict[str, dict[str, Any]], config: Config) -> dict[tuple[str, ...], Fate]:
    """Return the explanation of each row of a config, equal for both nodes of a pair."""
    found: dict[tuple[str, ...], Fate] = {}
    for name, facts in result.items():
        for row in facts["exports"].get(config.name, {"rows": []})["rows"]:
            ids = names(row)
            assert name in ids
            fate = row["split"], row["reason"]
            assert found.setdefault(ids, fate) == fate
    return found


def names(row: dict[str, Any]) -> tuple[str, ...]:
    if "chosen_id" in row:
        return row["chosen_id"], row["rejected_id"]
    return (row["node_id"],)


def ledger(forest: Forest, config: Config, selection: Selection) -> dict[tuple[str, ...], Fate]:
    found: dict[tuple[str, ...], Fate] = {}
    with Rows(forest, config, selection) as rows:
        for chunk in chunks(forest):
            for row in rows.ledger(chunk).to_pylist():
                split = "validation" if row["validation"] else "train"
                found[names(row)] = split, row["reason"]
    return found


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.name)
def test_every_node_is_explained_as_independent_code_derives(
    forest: Forest, result: dict[str, dict[str, Any]], config: Config
) -> None:
    found = fates(result, config)
    rows, dropped = derive(forest, config)
    kept = {ids: split for ids, (split, reason) in found.items() if reason is None}
    assert kept == {names(row): split for split, some in rows.items() for row in some}
    left_out = Counter(reason for _, reason in found.values() if reason)
    assert left_out == Counter({reason: n for reason, n in dropped.items() if n})
    assert found == ledger(forest, config, Selection())
    nodes = nodes_of(forest)
    roles = {
        nodes[name]["role"] for name, facts in result.items() if config.name in facts["exports"]
    }
    assert roles == {config.role or "refiner"}


def test_both_outcomes_and_reasons_occur(result: dict[str, dict[str, Any]]) -> None:
    every = [fate for config in ALL for fate in fates(result, config).values()]
    assert {split for split, _ in every} == {"train", "validation"}
    assert {reason for _, reason in every} == {None, "negative", "identical", "truncated"}


@pytest.mark.parametrize(
    "labels",
    [
        Labels(),
        Labels(threshold=0.2),
        Labels(pooling="local"),
        Labels(threshold=0.6, pooling="local"),
    ],
    ids=str,
)
def test_the_numbers_behind_a_label_match_recomputed_ones(tmp_path: Path, labels: Labels) -> None:
    forest = make_forest(tmp_path / "f", trees=1, n=(2, 2, 3), seed=1)
    if labels != Labels():
        relabel(forest, labels)
        forest = open_forest(forest.folder)
    nodes = nodes_of(forest)
    values: dict[str, float] = {}
    for name, node in sorted(nodes.items(), key=lambda item: -item[1]["depth"]):
        below = [child for child, row in nodes.items() if row["parent_id"] == name]
        if not below:
            values[name] = float(node["answer"] == gold_of(forest, node))
        if name.endswith(("r1", "r2")):  # r0 stands for them
            continue
        because = explain(forest, name)["label_because"]
        if not below:
            assert f"reward {values[name]:g} " in because
            assert f"answer is {node['verdict']}," in because
        else:
            local = labels.pooling == "local"
            parts = [float(values[c] > labels.threshold) if local else values[c] for c in below]
            values[name] = sum(parts) / len(parts)
            numbers = re.fullmatch(r"mean of .*? ([\d., ]+) is ([\d.]+), .*", because)
            assert numbers
            listed, mean = numbers.groups()
            assert listed == ", ".join(f"{part:.2f}" for part in parts)
            assert mean == f"{values[name]:.2f}"
            assert ("labels" in because) == local
        if round(values[name], 9) > labels.threshold:
            assert because.endswith(f" above {labels.threshold:g}: positive")
            assert "not above" not in because
        else:
            assert because.endswith(f" not above {labels.threshold:g}: negative")


def gold_of(forest: Forest, node: Node) -> str:
    asked = forest.questions().filter(pl.col("question_id") == node["question_id"]).collect()
    gold: str = asked["gold"].item()
    return gold


def test_path_and_leaves_belong_to_the_node(
    forest: Forest, result: dict[str, dict[str, Any]]
) -> None:
    nodes = nodes_of(forest)
    for name, facts in result.items():
        path = [name.rsplit("/", up)[0] for up in reversed(range(nodes[name]["depth"]))]
        assert [node["node_id"] for node in facts["path"]] == path
        assert all(node["text"] == nodes[node["node_id"]]["text"] for node in facts["path"])
        leaves = {
            n for n, row in nodes.items() if row["depth"] == 3 and f"{n}/".startswith(f"{name}/")
        }
        assert {leaf["node_id"] for leaf in facts["leaves"]} == leaves
        assert len(leaves) == nodes[name]["leaves"]
        assert facts["question"]["gold"] == gold_of(forest, nodes[name])


def test_an_id_is_not_confused_with_one_that_it_is_a_prefix_of(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=1, n=(11, 1, 1))
    name = min(forest.done)
    leaves = explain(forest, f"{name}/g1")["leaves"]
    assert [leaf["node_id"] for leaf in leaves] == [f"{name}/g1/v0/r0"]


# --- with exports there ---------------------------------------------------------------------------


def test_explain_uses_the_settings_of_the_existing_export(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=2, n=(2, 2, 3), seed=286)
    config = config_named("refiner_dpo")
    selection = Selection(strategy="one", keep_truncated=True, validation=0.5, seed=2)
    export(forest, config, selection)
    result = {
        name: explain(forest, name) for name, node in nodes_of(forest).items() if node["depth"] == 3
    }
    found = fates(result, config)
    assert found == ledger(forest, config, selection)
    assert found != ledger(forest, config, Selection())
    assert "strategy" in {reason for _, reason in found.values()}
    kept = {ids: split for ids, (split, reason) in found.items() if reason is None}
    files = list((forest.folder / "exports" / config.name).glob("*.parquet"))
    assert kept == {
        names(row): path.name.partition("-")[0]
        for path in files
        for row in pq.read_table(path).to_pylist()
    }
    for facts in result.values():
        status = {name: found["status"] for name, found in facts["exports"].items()}
        assert status.pop("refiner_dpo") == "exported"
        assert set(status.values()) == {"not exported yet"}


def test_an_export_of_an_earlier_state_is_marked(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=2)
    export(forest, config_named("refiner_dpo"))
    relabel(forest, Labels(threshold=0.7))
    again = open_forest(forest.folder)
    name = next(n for n, node in nodes_of(again).items() if node["depth"] == 3)
    status = explain(again, name)["exports"]["refiner_dpo"]["status"]
    assert status == "exported from an earlier state of the forest"
    export(again, config_named("refiner_dpo"))
    assert explain(again, name)["exports"]["refiner_dpo"]["status"] == "exported"


def test_two_ids_give_their_pair_in_either_order(forest: Forest) -> None:
    config = config_named("refiner_dpo")
    pairs = ledger(forest, config, Selection())
    (chosen, rejected), (split, reason) = next(iter(pairs.items()))
    row = {"chosen_id": chosen, "rejected_id": rejected, "split": split, "reason": reason}
    for ids in ((chosen, rejected), (rejected, chosen)):
        facts = explain(forest, *ids)
        assert facts["exports"] == {"refiner_dpo": {"status": "not exported yet", "rows": [row]}}
        assert facts["path"][-1]["node_id"] == ids[0]


def test_two_ids_that_are_not_a_pair_have_no_row(forest: Forest) -> None:
    tree = min(forest.done)
    for other in (f"{tree}/g0/v1/r0", f"{tree}/g0/v0", f"{tree}/g0"):
        rows = explain(forest, f"{tree}/g0/v0/r0", other)["exports"]["refiner_dpo"]["rows"]
        assert rows == []
    shown = malt("explain", forest.folder, f"{tree}/g0/v0/r0", f"{tree[:6]}/g0").stdout
    assert "refiner_dpo (not exported yet): these two are no pair" in shown


# --- on the terminal ------------------------------------------------------------------------------


def malt(*arguments: object) -> Result:
    runner = CliRunner(env={"COLUMNS": "200", "MALT_FOREST": ""})
    return runner.invoke(main, [str(argument) for argument in arguments])


def test_the_terminal_output_matches_the_json(forest: Forest) -> None:
    name = next(n for n, node in nodes_of(forest).items() if node["depth"] == 3)
    run = malt("explain", forest.folder, name, "--json")
    assert run.exit_code == 0, run.stderr
    facts = json.loads(run.stdout)
    assert facts == json.loads(json.dumps(explain(forest, name)))
    plain = malt("explain", forest.folder, name).stdout
    assert facts["question"]["question"] in plain
    assert facts["label_because"] in plain
    for node in [*facts["path"], *facts["leaves"]]:
        assert node["node_id"] in plain
    lines = plain.splitlines()
    for config, found in facts["exports"].items():
        (line,) = [line for line in lines if line.startswith(f"{config} ({found['status']}): ")]
        reasons = [row["reason"] for row in found["rows"]]
        if "dpo" in config:
            kept = f"in {reasons.count(None)} of {len(reasons)} pairs" if reasons else "no pair"
            assert kept in line
            for row in found["rows"]:
                why = row["reason"] or f"row in {row['split']}"
                assert f"  {row['chosen_id']} over {row['rejected_id']}: {why}" in lines
        elif reasons[0]:
            assert line.endswith(f"left out: {reasons[0]} ({REASONS[reasons[0]]})")
        else:
            assert line.endswith(f"row in {found['rows'][0]['split']}")


def test_hostile_texts_are_escaped_on_the_terminal(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=1)
    hostile = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\x00\x7f\u202e[red]over[/red]\u2066"
    for path in forest.parts.paths():
        rewrite(path, "text", hostile)
        rewrite(path, "answer", hostile)
    for column in ("question", "gold"):
        rewrite(forest.folder / "questions.parquet", column, hostile)
    name = f"{min(forest.done)}/g0/v0/r0"
    run = malt("explain", forest.folder, name)
    assert run.exit_code == 0, run.stderr
    raw = {char for char in run.stdout if not char.isprintable()}
    assert raw == {"\n"}
    shown = "\\x1b]0;owned\\x07\\x1b[2J\\r\\x9b31m\\x00\\x7f\\u202e[red]over[/red]\\u2066"
    assert run.stdout.count(shown) == 6  # gold, question, three texts, one answer
    assert (
        json.loads(malt("explain", forest.folder, name, "--json").stdout)["path"][0]["text"]
        == hostile
    )


def rewrite(path: Path, column: str, text: str) -> None:
    table = pq.read_table(path, partitioning=None)
    place = table.schema.get_field_index(column)
    same = pa.array([text] * table.num_rows)
    pq.write_table(table.set_column(place, table.schema.field(place), same), path)


def test_an_unknown_id_is_a_one_line_error(forest: Forest) -> None:
    tree, other = sorted(forest.done)[:2]
    good = f"{tree}/g0"
    for ids, message in {
        ("zzz",): "has no tree 'zzz'",
        (tree,): f"is not a node of tree {tree}",
        (f"{tree}/g9",): f"has no node '{tree}/g9'",
        (f"{tree[:8]}/g9",): "has no node",
        (f"{tree}/",): "has no node",
        ("",): "is not a node",
        (good, ""): "'' is not a node",
        (good, f"{other}/g0"): f"is not a node of tree {tree}",
        (good, "zzz"): f"'zzz' is not a node of tree {tree}",
    }.items():
        with pytest.raises(ForestError, match=re.escape(message)):
            explain(forest, *ids)


def test_an_invalid_call_is_a_one_line_error(
    forest: Forest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[list[object], int]] = [
        ([forest.folder, "zzz\x1b[2J"], 1),
        ([forest.folder, f"{min(forest.done)}/g9"], 1),
        ([tmp_path / "nowhere", "a/g0", "a/g1"], 1),
        (["a/g0"], 1),
        ([forest.folder], 2),
    ]
    for call, code in calls:
        run = malt("explain", *call)
        assert run.exit_code == code, run.stderr
        assert run.stdout == ""
        assert isinstance(run.exception, SystemExit)  # no traceback
        assert "\x1b" not in run.stderr
        (error,) = [line for line in run.stderr.splitlines() if line.startswith("Error: ")]
        assert code == 2 or run.stderr == error + "\n"
