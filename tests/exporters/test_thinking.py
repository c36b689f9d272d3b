"""Thinking leaves a forest only on request, in the form that chat templates and TRL read."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from synthetic import ALL, make_forest, think
from templates import DROPS, OPENS, SWITCH, reasoning

from malt_data.engines.embedded import EMBEDDED
from malt_data.exporters.check import check
from malt_data.exporters.explain import explain
from malt_data.exporters.export import export, read_report
from malt_data.exporters.fit import Fit, load_fit
from malt_data.exporters.selection import Selection
from malt_data.exporters.verify import verify_export
from malt_data.forests.forest import Forest, open_forest
from malt_data.report.report import write_report
from malt_data.schemas.exports import VARIABLES
from malt_data.schemas.pipeline import ChatTemplate

FOREST_1 = Path(__file__).parents[1] / "schemas" / "forest_1"
THOUGHTS = [
    "A thought with 'quotes'.",
    None,
    "A thought\n\nof two lines 🙂.",
    "A thought {question}",
]
OFF = {"enable_thinking": False}
CHATS = [config for config in ALL if config.format.unit != "trajectory"]
SIDES = ("completion", "chosen", "rejected")


def thoughtful(folder: Path, **spec: Any) -> Forest:
    forest = make_forest(folder, trees=6, n=(2, 3, 2), **spec)
    think(forest, THOUGHTS)
    return forest


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    return thoughtful(tmp_path_factory.mktemp("forest") / "f")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    template = ChatTemplate(plain=True)
    return thoughtful(tmp_path_factory.mktemp("plain") / "f", chat_template=template)


@pytest.fixture(scope="module")
def switched_off(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    """A forest that was sampled with a variable of the chat template, and without thoughts."""
    folder = tmp_path_factory.mktemp("off") / "f"
    return make_forest(folder, trees=6, n=(2, 3, 2), chat_template=ChatTemplate(**OFF))


def exported(forest: Forest, config: Any, out: Path, **selection: Any) -> list[dict[str, Any]]:
    """Export a config, verify it and return its rows."""
    export(forest, config, Selection(**{"keep_truncated": True} | selection), out)
    assert verify_export(out) == []
    return [
        row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def nodes_of(forest: Forest) -> dict[str, dict[str, Any]]:
    return {row["node_id"]: row for row in forest.nodes().collect().to_dicts()}


def origins(row: dict[str, Any]) -> dict[str, str]:
    """Return the text columns of a row, each with the id of its node."""
    names = {"completion": "node_id", "chosen": "chosen_id", "rejected": "rejected_id"}
    return {side: row[names[side]] for side in SIDES if side in row}


def exported_as(
    written: Callable[[dict[str, Any]], Any], forest: Forest, config: Any, out: Path
) -> list[dict[str, Any]]:
    """Export with thoughts; check that they are in no prompt and each text is as `written`."""
    nodes = nodes_of(forest)
    rows = exported(forest, config, out, thinking=True)
    assert rows
    for row in rows:
        assert "thought" not in json.dumps(row["prompt"])
        for side, node in origins(row).items():
            assert row[side] == written(nodes[node])
    return rows


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.name)
@pytest.mark.parametrize("kind", ["forest", "plain"])
def test_by_default_no_thought_leaves_the_forest(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, config: Any
) -> None:
    rows = exported(request.getfixturevalue(kind), config, tmp_path / "out")
    assert rows
    assert "thought" not in json.dumps(rows)
    assert "think" not in json.dumps(rows)
    assert "reasoning_content" not in json.dumps(rows)
    assert "thinking" not in read_report(tmp_path / "out").model_dump_json()


@pytest.mark.parametrize("config", CHATS, ids=lambda config: config.name)
def test_a_selected_thought_is_in_the_message_of_its_text(
    forest: Forest, tmp_path: Path, config: Any
) -> None:
    def written(node: dict[str, Any]) -> list[dict[str, str]]:
        thought = node["thinking"] or ""
        return [{"role": "assistant", "content": node["text"], "reasoning_content": thought}]

    rows = exported_as(written, forest, config, tmp_path / "out")
    default = exported(forest, config, tmp_path / "default")
    assert [origins(row) for row in rows] == [origins(row) for row in default]


@pytest.mark.parametrize("config", CHATS, ids=lambda config: config.name)
def test_in_plain_text_a_selected_thought_precedes_its_text(
    plain: Forest, tmp_path: Path, config: Any
) -> None:
    def written(node: dict[str, Any]) -> str:
        thought = f"<think>\n{node['thinking']}\n</think>\n\n" if node["thinking"] else ""
        return f"{thought}{node['text']}"

    exported_as(written, plain, config, tmp_path / "out")


@pytest.mark.parametrize("kind", ["forest", "plain"])
def test_trajectories_have_no_thoughts(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    forest = request.getfixturevalue(kind)
    rows = exported(forest, "trajectory", tmp_path / "out", thinking=True)
    assert rows == exported(forest, "trajectory", tmp_path / "default") != []


def test_a_forest_from_before_thinking_can_be_exported_with_it(tmp_path: Path) -> None:
    forest = open_forest(shutil.copytree(FOREST_1, tmp_path / "f"))
    rows = exported(forest, "refiner_dpo", tmp_path / "out", thinking=True)
    assert {row[side][0]["reasoning_content"] for row in rows for side in origins(row)} == {""}
    for row in rows:
        for side in origins(row):
            del row[side][0]["reasoning_content"]
    assert rows == exported(forest, "refiner_dpo", tmp_path / "default")


def test_every_row_has_the_variables_of_the_chat_template(
    switched_off: Forest, tmp_path: Path
) -> None:
    for config in ALL:
        rows = exported(switched_off, config, tmp_path / config.name)
        assert rows
        assert all(row[VARIABLES] == OFF for row in rows)


@pytest.mark.parametrize("thinking", [False, True])
def test_a_row_with_a_thought_is_explained(tmp_path: Path, thinking: bool) -> None:
    forest = thoughtful(tmp_path / "f", chat_template=ChatTemplate(enable_thinking=True))
    export(forest, "refiner_kto", Selection(thinking=thinking, keep_truncated=True))
    out = forest.folder / "exports" / "refiner_kto"
    assert verify_export(out) == []
    rows = [row for path in out.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    for row in rows[:2]:
        (found,) = explain(forest, row["node_id"])["exports"]["refiner_kto"]["rows"]
        assert found["reason"] is None


# --- the chat template ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    pytest.importorskip("transformers")
    return load_fit(EMBEDDED).tokenizer


def checked(tokenizer: Any, template: str, folder: Path) -> dict[str, Any]:
    return check(folder, Fit(reasoning(tokenizer, template)))


@pytest.mark.model
@pytest.mark.parametrize("name", ["refiner_dpo", "refiner_sft", "verifier_kto"])
def test_a_template_that_writes_thoughts_takes_every_row(
    forest: Forest, tokenizer: Any, tmp_path: Path, name: str
) -> None:
    for thinking in (False, True):
        out = tmp_path / str(thinking)
        rows = exported(forest, name, out, thinking=thinking)
        nodes = nodes_of(forest)
        carry = [any(nodes[node]["thinking"] for node in origins(row).values()) for row in rows]
        facts = checked(tokenizer, SWITCH, out)
        assert facts["problems"] == []
        expected = sum(carry) if thinking else 0
        assert facts["thinking"] == {"rows": expected, "kept": expected, "empty_block": False}
        assert ("<think>\nA thought" in facts["example"]) == thinking


@pytest.mark.model
def test_a_template_whose_thinking_is_off_takes_every_row(
    switched_off: Forest, tokenizer: Any, tmp_path: Path
) -> None:
    exported(switched_off, "refiner_dpo", tmp_path / "out")
    facts = checked(tokenizer, SWITCH, tmp_path / "out")
    assert facts["problems"] == []
    assert facts["thinking"] == {"rows": 0, "kept": 0, "empty_block": True}
    assert "<think>\n\n</think>\n\n" in facts["example"]


@pytest.mark.model
def test_an_empty_thought_and_the_text_behind_it_must_not_share_tokens(
    switched_off: Forest, tokenizer: Any, tmp_path: Path
) -> None:
    """They do with SmolLM2's tokenizer, see `reasoning`."""
    rows = exported(switched_off, "refiner_dpo", tmp_path / "out")
    own = copy.copy(tokenizer)
    own.chat_template = SWITCH
    assert check(tmp_path / "out", Fit(own))["not_a_prefix"] == len(rows) > 0


@pytest.mark.model
def test_a_template_that_drops_thoughts_is_a_problem(
    forest: Forest, tokenizer: Any, tmp_path: Path
) -> None:
    exported(forest, "refiner_dpo", tmp_path / "with", thinking=True)
    facts = checked(tokenizer, DROPS, tmp_path / "with")
    with_thoughts = facts["thinking"]["rows"]
    assert facts["thinking"] == {"rows": with_thoughts, "kept": 0, "empty_block": False}
    (problem,) = facts["problems"]
    assert f"{with_thoughts} rows have thinking that the chat template drops" in problem
    exported(forest, "refiner_dpo", tmp_path / "without")
    assert checked(tokenizer, DROPS, tmp_path / "without")["problems"] == []


@pytest.mark.model
def test_a_template_that_opens_a_thought_needs_rows_with_thoughts(
    forest: Forest, tokenizer: Any, tmp_path: Path
) -> None:
    rows = exported(forest, "refiner_sft", tmp_path / "without")
    (problem,) = checked(tokenizer, OPENS, tmp_path / "without")["problems"]
    assert f"{len(rows)} rows have a prompt that is not a prefix" in problem
    assert "Export with it: thinking = true in --config FILE.toml" in problem
    rows = exported(forest, "refiner_sft", tmp_path / "with", thinking=True)
    facts = checked(tokenizer, OPENS, tmp_path / "with")
    without = sum(not row["completion"][0]["reasoning_content"] for row in rows)
    assert facts["not_a_prefix"] == without > 0
    assert facts["thinking"]["rows"] == facts["thinking"]["kept"] == len(rows) - without > 0
    (problem,) = facts["problems"]
    assert f"{without} rows have a prompt that is not a prefix" in problem
    assert "thinking = true" not in problem


@pytest.mark.model
def test_a_template_that_opens_a_thought_and_drops_it_cannot_be_used(
    forest: Forest, tokenizer: Any, tmp_path: Path
) -> None:
    """As those of DeepSeek-R1's distillates do, which read no reasoning_content."""
    template = DROPS.replace("assistant\n' }}", "assistant\n<think>\n' }}")
    assert template != DROPS
    rows = exported(forest, "refiner_sft", tmp_path / "out", thinking=True)
    facts = checked(tokenizer, template, tmp_path / "out")
    carry = sum(bool(row["completion"][0]["reasoning_content"]) for row in rows)
    assert facts["thinking"] == {"rows": carry, "kept": 0, "empty_block": False}
    assert facts["not_a_prefix"] == len(rows) > carry > 0
    (dropped,) = [problem for problem in facts["problems"] if "drops" in problem]
    assert f"{carry} rows have thinking that the chat template drops" in dropped
    assert "Export without" not in dropped


@pytest.mark.model
def test_rows_that_a_template_opens_wrongly_are_left_out_of_an_export(
    forest: Forest, tokenizer: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "tokenizer"
    reasoning(tokenizer, OPENS).save_pretrained(folder)
    rows = exported(forest, "refiner_sft", tmp_path / "out", thinking=True, tokenizer=str(folder))
    assert rows
    assert all(row["completion"][0]["reasoning_content"] for row in rows)
    assert read_report(tmp_path / "out").dropped["not_a_prefix"] > 0
    assert check(tmp_path / "out", load_fit(str(folder)))["problems"] == []
    mine = open_forest(shutil.copytree(forest.folder, tmp_path / "mine"))
    export(mine, "refiner_dpo", Selection(thinking=True, tokenizer=str(folder)))
    assert write_report(mine, tmp_path / "report.html").shown == len(mine.done)
