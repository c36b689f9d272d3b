"""Rows that do not fit a tokenizer are not exported, checked by an independent count."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from exporters.derived import derive
from synthetic import ALL, begin, make_forest

from malt_data.engines.embedded import EMBEDDED
from malt_data.errors import ExportError, SpecError
from malt_data.exporters.explain import explain
from malt_data.exporters.export import count, export, read_report
from malt_data.exporters.fit import Fit, load_fit
from malt_data.exporters.selection import UNFIT, Selection
from malt_data.exporters.verify import verify_export
from malt_data.forests.forest import Forest, open_forest
from malt_data.forests.relabel import relabel
from malt_data.publish.card import render_card
from malt_data.publish.push import _fresh_exports
from malt_data.schemas.exports import Config, config_named
from malt_data.schemas.spec import Labels

pytest.importorskip("transformers")

pytestmark = pytest.mark.model

END = "<|im_end|>\n"
FITTED = Selection(
    tokenizer=EMBEDDED, max_length=140, validation=0.3, keep_truncated=True, keep_identical=True
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_fit(EMBEDDED).tokenizer


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    folder = tmp_path_factory.mktemp("forest") / "f"
    forest = make_forest(folder, trees=12, n=(3, 2, 3), seed=5, model=EMBEDDED)
    beginnings = ("\n\n", "", "word " * 10)
    begin(forest, [beginnings[(i // 9 + i) % 3] for i in range(27)])  # each among siblings
    return forest


def read(folder: Path) -> list[dict[str, Any]]:
    return [
        row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def ordered(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def tokens(tokenizer: Any, row: dict[str, Any]) -> tuple[int, bool]:
    """Return (tokens of the longest side, is the prompt a prefix) of what the template renders."""

    def encode(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    start = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    prompt = encode(start)
    sides = [row[side] for side in ("completion", "chosen", "rejected") if side in row]
    wholes = [encode(start + side[0]["content"] + END) for side in sides]
    return max(map(len, wholes)), all(whole[: len(prompt)] == prompt for whole in wholes)


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.name)
def test_rows_that_do_not_fit_are_left_out_and_counted(
    forest: Forest, tokenizer: Any, tmp_path: Path, config: Config
) -> None:
    rows, dropped = derive(forest, config, FITTED)
    result = [(row, *tokens(tokenizer, row)) for found in rows.values() for row in found]
    lengths = sorted(length for _, length, prefix in result if prefix)
    limit = lengths[(len(lengths) - 1) // 2]
    chosen = FITTED.model_copy(update={"max_length": limit})
    report = export(forest, config, chosen, tmp_path / "out")
    kept = [row for row, length, prefix in result if prefix and length <= limit]
    assert ordered(read(tmp_path / "out")) == ordered(kept)
    dropped["not_a_prefix"] = sum(not prefix for *_, prefix in result)
    dropped["too_long"] = sum(prefix and length > limit for _, length, prefix in result)
    assert report.dropped == {why: n for why, n in dropped.items() if n}
    assert kept
    assert dropped["not_a_prefix"] or config.role == "generator"  # of few positives
    assert dropped["too_long"] or limit == lengths[-1]
    assert count(forest, config, chosen) == report


def test_one_pair_per_parent_is_one_that_fits(forest: Forest, tmp_path: Path) -> None:
    config = config_named("refiner_dpo")
    export(forest, config, FITTED, tmp_path / "all")
    export(forest, config, FITTED.model_copy(update={"strategy": "one"}), tmp_path / "one")
    parents = [
        {row["chosen_id"].rpartition("/")[0] for row in read(tmp_path / name)}
        for name in ("all", "one")
    ]
    assert parents[0] == parents[1]


def test_max_length_alone_counts_tokens_of_the_forests_model(
    forest: Forest, tmp_path: Path
) -> None:
    config = config_named("refiner_sft")
    chosen = FITTED.model_copy(update={"tokenizer": None})
    assert export(forest, config, chosen, tmp_path / "out").selection == FITTED
    gone = make_forest(tmp_path / "f", trees=1, model=str(tmp_path / "gone"))
    with pytest.raises(ExportError, match=r"gone could not be loaded.*--tokenizer"):
        export(gone, config, chosen, tmp_path / "no")
    nameless = make_forest(tmp_path / "g", trees=1, model=None)
    with pytest.raises(SpecError, match="--tokenizer NAME"):
        count(nameless, config, chosen)


def test_explain_verify_card_and_push_report_what_did_not_fit(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=4, n=(2, 2, 2), seed=5, model=EMBEDDED)
    begin(forest, ["", "\n\n", *[""] * 6, "word " * 90])
    forest = open_forest(forest.folder)
    config = config_named("verifier_value")
    report = export(forest, config, FITTED)
    folder = forest.folder / "exports" / config.name
    assert verify_export(folder) == []
    card = render_card(forest, "me/trees", [config])
    for why in ("not_a_prefix", "too_long"):
        assert f"| {report.dropped[why]} | {why} | {UNFIT[why]} |" in card
    kept = {row["node_id"] for row in read(folder)}
    nodes = sorted(forest.nodes().collect().filter(role="verifier")["node_id"])
    for name in nodes[:4]:
        (row,) = explain(forest, name)["exports"][config.name]["rows"]
        assert (row["reason"] is None) == (name in kept)
        assert row["reason"] in (None, "not_a_prefix", "too_long")

    relabel(forest, Labels(threshold=0.7))  # a push makes it anew, with its own settings
    forest = open_forest(forest.folder)
    _fresh_exports(forest, None)
    again = read_report(folder)
    assert again.forest != report.forest
    assert again.model_copy(update={"forest": report.forest, "labels": report.labels}) == report

    text = (folder / "export.json").read_text()
    (folder / "export.json").write_text(text.replace(f'"{EMBEDDED}"', f'"{tmp_path}/gone"', 1))
    (problem,) = verify_export(folder)
    assert "gone could not be loaded" in problem


def test_a_row_that_the_template_rejects_does_not_affect_others(tokenizer: Any) -> None:
    import copy

    strict = copy.copy(tokenizer)
    strict.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + tokenizer.chat_template
    )
    user, text = {"role": "user", "content": "Hi?"}, [{"role": "assistant", "content": "Hi."}]
    system = {"role": "system", "content": "Be kind."}
    rows = [{"prompt": p, "completion": text} for p in ([user], [system, user], [user, user])]
    found = Fit(strict).measure(rows)
    assert [one.reason for one in found] == [None, "refused_by_template", None]
    assert found[2].prompt > found[0].prompt > 0
    assert Fit(strict).measure([]) == []
