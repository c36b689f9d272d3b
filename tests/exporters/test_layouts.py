"""Layouts hold the rows of TRL's, in the form that each tool's reader documents.

`benchmarks/layouts.py` reads them with the tools' own loaders and compares the tokens.
"""

import json
import runpy
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from synthetic import make_forest, think

from malt_data.cli import main
from malt_data.errors import SpecError, TrainError
from malt_data.exporters.explain import explain
from malt_data.exporters.export import export, exports_of, read_report
from malt_data.exporters.selection import Selection
from malt_data.exporters.verify import verify_export
from malt_data.forests.forest import Forest, open_forest
from malt_data.publish.push import _fresh_exports
from malt_data.schemas.pipeline import ChatTemplate
from malt_data.trainers.data import load_rows

Row = dict[str, Any]
SOME = Selection(validation=0.3, max_per_question=3)


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    user = "{question} äöü {initial_answer} {verification}"
    prompts = {"numeric": {"refiner": {"system": "Be brief.\u2028\n", "user": user}}}
    return make_forest(
        tmp_path_factory.mktemp("forest") / "f", trees=12, n=(2, 2, 3), prompts=prompts
    )


def trl_rows(forest: Forest, name: str, folder: Path, chosen: Selection = SOME) -> list[Row]:
    export(forest, name, chosen, folder / "trl")
    return [row for split in ("train", "validation") for row in parquet(folder / "trl", split)]


def parquet(folder: Path, split: str) -> list[Row]:
    return [
        row
        for path in sorted(folder.glob(f"{split}-*.parquet"))
        for row in pq.read_table(path, partitioning=None).to_pylist()
    ]


def lines(folder: Path) -> list[Row]:
    paths = [*folder.glob("train-*.jsonl"), *folder.glob("validation-*.jsonl")]
    return [json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines()]


def ids(row: Row) -> Row:
    return {k: v for k, v in row.items() if k not in ("prompt", "completion", "chosen", "rejected")}


@pytest.mark.parametrize("form", ["sft", "dpo", "kto"])
def test_llama_factory_finds_one_message_a_side_by_its_dataset_info(
    forest: Forest, tmp_path: Path, form: str
) -> None:
    """Its `data/converter.py` takes a list for a broken row, and only warns."""
    expected = trl_rows(forest, f"refiner_{form}", tmp_path)
    export(forest, f"refiner_{form}", SOME, tmp_path / "out", layout="llamafactory")
    described = json.loads((tmp_path / "out/dataset_info.json").read_text("utf-8"))
    assert list(described) == [f"refiner_{form}", f"refiner_{form}_validation"]
    found = []
    for info in described.values():
        files = [str(path) for path in (tmp_path / "out" / info["file_name"]).iterdir()]
        loaded = datasets.load_dataset(
            "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
        )
        assert set(info["columns"].values()) <= set(loaded.column_names)
        found += loaded.to_list()
    for row, read in zip(expected, found, strict=True):
        assert read["messages"] == row["prompt"] + row.get("completion", [])
        assert [read[s] for s in ("chosen", "rejected") if s in read] == [
            row[side][0] for side in ("chosen", "rejected") if side in row
        ]
        assert ids(row).items() <= read.items()
    assert info.get("ranking", False) is (form == "dpo")


@pytest.mark.parametrize("form", ["sft", "dpo"])
def test_axolotl_loads_what_its_config_names(forest: Forest, tmp_path: Path, form: str) -> None:
    expected = trl_rows(forest, f"refiner_{form}", tmp_path)
    export(forest, f"refiner_{form}", SOME, tmp_path / "out", layout="axolotl")
    config = yaml.safe_load((tmp_path / "out/axolotl.yaml").read_text("utf-8"))
    found = []
    for dataset in (*config["datasets"], *config["test_datasets"]):
        loaded = datasets.load_dataset(
            dataset["ds_type"],
            data_files=dataset["data_files"],
            split=dataset["split"],
            cache_dir=str(tmp_path / "cache"),
        )
        found += loaded.to_list()
    for row, read in zip(expected, found, strict=True):
        if form == "sft":
            assert read["messages"] == row["prompt"] + row["completion"]
        else:
            assert {side: read[side] for side in ("prompt", "chosen", "rejected")}.items() <= (
                row.items()
            )
        assert ids(row).items() <= read.items()
    assert config.get("rl") == ("dpo" if form == "dpo" else None)


@pytest.mark.parametrize("form", ["sft", "dpo"])
def test_openai_gets_lines_with_nothing_but_its_keys(
    forest: Forest, tmp_path: Path, form: str
) -> None:
    expected = trl_rows(forest, f"refiner_{form}", tmp_path)
    export(forest, f"refiner_{form}", SOME, tmp_path / "out", layout="openai")
    found = lines(tmp_path / "out")
    origins = [row for split in ("train", "validation") for row in origin(tmp_path / "out", split)]
    for row, read, known in zip(expected, found, origins, strict=True):
        if form == "sft":
            assert read == {"messages": row["prompt"] + row["completion"]}
        else:
            assert read == {
                "input": {"messages": row["prompt"]},
                "preferred_output": row["chosen"],
                "non_preferred_output": row["rejected"],
            }
        assert known == ids(row)


def origin(folder: Path, split: str) -> list[Row]:
    return parquet(folder / "origin", split)


def test_verl_gets_messages_and_a_prompt_once_with_its_gold(forest: Forest, tmp_path: Path) -> None:
    expected = trl_rows(forest, "generator_sft", tmp_path)
    export(forest, "generator_sft", SOME, tmp_path / "sft", layout="verl")
    found = parquet(tmp_path / "sft", "train") + parquet(tmp_path / "sft", "validation")
    assert [row["messages"] for row in found] == [r["prompt"] + r["completion"] for r in expected]

    report = export(forest, "generator_value", out=tmp_path / "rl", layout="verl")
    found = parquet(tmp_path / "rl", "train") + parquet(tmp_path / "rl", "validation")
    questions = {row["question_id"]: row for row in forest.questions().collect().to_dicts()}
    assert {row["question_id"] for row in found} == set(questions)
    assert len(found) == len(questions) == report.total
    assert report.dropped["parent_cap"] == report.candidates - report.total
    for row in found:
        question = questions[row["question_id"]]
        assert row["reward_model"] == {"style": "rule", "ground_truth": question["gold"]}
        assert (row["data_source"], row["ability"]) == (question["source"], question["kind"])
        assert row["extra_info"]["question_id"] == row["question_id"]
        assert "value" not in row
        assert question["question"] in row["prompt"][-1]["content"]


@pytest.mark.parametrize("layout", ["axolotl", "verl"])
def test_thinking_stays_in_its_key(tmp_path: Path, layout: str) -> None:
    thoughtful = make_forest(tmp_path / "f", trees=6, n=(2, 2, 2))
    think(thoughtful, ["Hm.", None])
    chosen = Selection(thinking=True)
    expected = trl_rows(thoughtful, "refiner_sft", tmp_path, chosen)
    export(thoughtful, "refiner_sft", chosen, tmp_path / "out", layout=layout)
    found = parquet(tmp_path / "out", "train") + parquet(tmp_path / "out", "validation")
    for row, read in zip(expected, found, strict=True):
        unthought = [message | {"reasoning_content": ""} for message in row["prompt"]]
        assert read["messages"] == unthought + row["completion"]


def test_a_trace_has_each_prompt_and_text_of_a_path(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=5, n=(2, 2, 2))
    think(forest, ["Hm.", None])
    report = export(forest, "trajectory", SOME, layout="traces")
    folder = forest.folder / "exports/trajectory_traces"
    paths = sorted(folder.glob("*/*.jsonl"))
    assert len(paths) == report.total > 0
    nodes = {row["node_id"]: row for row in forest.nodes().collect().to_dicts()}
    for path in paths:
        header, *messages = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        assert (header["type"], header["harness"]) == ("session", "malt-data")
        assert {line["type"] for line in messages} == {"message"}
        leaf = header["id"]
        above = [leaf.rsplit("/", up)[0] for up in (2, 1)]
        assert [line["message"]["role"] for line in messages] == ["user", "assistant"] * 3
        for name, line in zip([*above, leaf], messages[1::2], strict=True):
            assert line["message"]["content"] == nodes[name]["text"]
            assert line["message"].get("reasoningContent") == nodes[name]["thinking"]
        assert nodes[above[0]]["text"] in messages[2]["message"]["content"]  # the verifier reads it
    assert verify_export(folder) == []
    paths[0].write_text(paths[1].read_text("utf-8").partition("\n")[2])
    paths[1].unlink()
    assert len(verify_export(folder)) > 1


@pytest.mark.parametrize(
    ("name", "layout", "chosen", "template", "problem"),
    [
        ("refiner_dpo", "verl", {}, {}, "does not know dpo"),
        ("refiner_kto", "axolotl", {}, {}, "does not know kto"),
        ("refiner_value", "openai", {}, {}, "does not know value"),
        ("refiner_sft", "openai", {"thinking": True}, {}, "does not train on thinking"),
        ("refiner_dpo", "axolotl", {"thinking": True}, {}, "does not train on thinking"),
        ("refiner_sft", "llamafactory", {}, {"plain": True}, "plain text"),
        ("refiner_sft", "verl", {}, {"enable_thinking": False}, "enable_thinking"),
        ("refiner_sft", "megatron", {}, {}, "Unknown layout"),
    ],
)
def test_what_a_tool_cannot_read_is_refused_before_anything_is_written(
    tmp_path: Path, name: str, layout: str, chosen: Any, template: Any, problem: str
) -> None:
    forest = make_forest(
        tmp_path / "f", trees=1, n=(1, 1, 2), chat_template=ChatTemplate(**template)
    )
    with pytest.raises(SpecError, match=problem):
        export(forest, name, Selection(**chosen), tmp_path / "out", layout=layout)
    assert not (tmp_path / "out").exists()


def test_verify_and_explain_know_a_layout(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=4, n=(2, 2, 3))
    layouts = ["llamafactory", "openai"]
    for layout in layouts:
        export(forest, "refiner_sft", layout=layout)
    names = [f"refiner_sft_{layout}" for layout in layouts]
    assert sorted(exports_of(forest)) == sorted(names)
    folders = {name: forest.folder / "exports" / name for name in names}
    assert [verify_export(folder) for folder in folders.values()] == [[]] * len(names)
    row = origin(folders["refiner_sft_openai"], "train")[0]
    decisions = explain(forest, row["node_id"])["exports"]
    assert decisions["refiner_sft_openai"] == {
        "status": "exported",
        "rows": [{"node_id": row["node_id"], "split": "train", "reason": None}],
    }
    assert decisions["refiner_sft"]["status"] == "not exported yet"

    shard = next(folders["refiner_sft_openai"].glob("train-*.jsonl"))
    text = shard.read_text("ascii")
    shard.write_text(text.partition("\n")[2], "ascii")
    assert "lines, but origin/ has the ids" in verify_export(folders["refiner_sft_openai"])[0]
    shard.write_text(text + "{", "ascii")
    assert verify_export(folders["refiner_sft_openai"])


def test_the_command_writes_beside_trl_and_says_what_does_not_go_together(tmp_path: Path) -> None:
    forest = str(make_forest(tmp_path / "f", trees=3, n=(2, 2, 2)).folder)

    def run(*args: str) -> Any:
        return CliRunner().invoke(main, ["export", forest, *args])

    done = run("--format", "sft", "--layout", "llamafactory", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["refiner_sft"]["layout"] == "llamafactory"
    folder = open_forest(forest).folder / "exports/refiner_sft_llamafactory"
    assert read_report(folder).layout == "llamafactory"
    assert run("--layout", "llamafactory", "--push", "me/t").exit_code == 2
    assert run("--layout", "llamafactory", "--check").exit_code == 2
    refused = run("--layout", "verl")  # sft and dpo: nothing is written
    assert refused.exit_code == 2
    assert "does not know dpo" in refused.stderr
    assert not folder.with_name("generator_sft_verl").exists()


def test_the_reward_for_verl_is_that_of_the_forest(forest: Forest, tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "examples" / "verl_reward.py"
    score = runpy.run_path(str(path))["compute_score"]
    export(forest, "generator_value", out=tmp_path, layout="verl")
    nodes = {row["node_id"]: row for row in forest.nodes().collect().to_dicts()}
    rows = parquet(tmp_path, "train")
    found = [
        score(
            row["data_source"],
            nodes[row["node_id"]]["text"],
            row["reward_model"]["ground_truth"],
            row["extra_info"],
        )
        for row in rows
    ]
    assert found == [float(nodes[row["node_id"]]["correct"]) for row in rows]
    assert set(found) == {0.0, 1.0}


def test_a_push_sends_only_what_load_dataset_reads(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=2, n=(1, 1, 2))
    export(forest, "refiner_sft")
    export(forest, "refiner_sft", layout="openai")
    assert [config.name for config in _fresh_exports(forest, None)] == ["refiner_sft"]


def test_axolotl_is_told_the_variables_of_the_chat_template(tmp_path: Path) -> None:
    template = ChatTemplate(enable_thinking=False, effort={"level": "low"})
    forest = make_forest(tmp_path / "f", trees=2, n=(1, 1, 2), chat_template=template)
    export(forest, "refiner_sft", out=tmp_path / "out", layout="axolotl")
    config = yaml.safe_load((tmp_path / "out/axolotl.yaml").read_text("utf-8"))
    assert config["chat_template_kwargs"] == {"enable_thinking": False, "effort": {"level": "low"}}


def test_training_and_verifying_name_a_layout_that_they_cannot_read(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=2, n=(1, 1, 2))
    out = tmp_path / "out"
    export(forest, "refiner_sft", out=out, layout="axolotl")
    with pytest.raises(TrainError, match="leave out --layout"):
        load_rows(str(out), "refiner", "sft")
    report = json.loads((out / "export.json").read_text("utf-8")) | {"layout": "newer"}
    (out / "export.json").write_text(json.dumps(report), "utf-8")
    assert verify_export(out) == [
        "Unknown layout 'newer'. Choose one of trl, llamafactory, axolotl, openai, verl, traces."
    ]
