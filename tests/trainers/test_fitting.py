"""Training truncates no row: rows that do not fit are left out and counted before training."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from synthetic import begin, make_forest, think
from templates import SWITCH, reasoning
from trainers.tiny import make_tiny

from malt_data.cli import main
from malt_data.errors import SpecError, TrainError
from malt_data.exporters.check import check
from malt_data.exporters.export import export
from malt_data.exporters.fit import load_fit
from malt_data.exporters.selection import Selection
from malt_data.forests.forest import Forest
from malt_data.schemas.exports import config_named
from malt_data.schemas.pipeline import ChatTemplate
from malt_data.trainers.dpo import train_dpo
from malt_data.trainers.recipe import Recipe
from malt_data.trainers.sft import train_sft

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
]

CONTEXT = 320
SMALL = Recipe(trainer={"per_device_train_batch_size": 2})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose context, as its config says, is shorter than its tokenizer's."""
    folder = Path(make_tiny(tmp_path_factory.mktemp("tiny") / "tiny"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
    return str(folder)


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> Forest:
    """Some texts merge with the prompt, some are longer than the model's context."""
    forest = make_forest(tmp_path_factory.mktemp("forest") / "f", trees=20, n=(3, 2, 3), model=tiny)
    beginnings = ("\n\n", "", "word " * CONTEXT, "word " * 50, "🙂 ")
    begin(forest, [beginnings[(i // 9 * 2 + i) % 5] for i in range(27)])
    for name in ("verifier_sft", "refiner_dpo"):
        export(forest, config_named(name), Selection(validation=0.3, keep_truncated=True))
    return forest


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, forest: Forest) -> str:
    out = tmp_path_factory.mktemp("sft") / "verifier"
    train_sft("verifier", str(forest.folder), out, max_steps=1, recipe=SMALL)
    return str(out)


class Captured(Exception):
    """Stops a training before its first step and carries the trainer."""


@pytest.fixture
def caught(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []

    def run(trainer: Any, *_: object) -> None:
        found.append(trainer)
        raise Captured

    monkeypatch.setattr("malt_data.trainers.training.run_training", run)
    return found


def exported(forest: Forest, name: str, split: str) -> list[dict[str, Any]]:
    found = sorted((forest.folder / "exports" / name).glob(f"{split}-*.parquet"))
    return [row for path in found for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("name", ["verifier_sft", "refiner_dpo"])
def test_the_trainer_gets_the_tokens_that_the_check_counted(
    forest: Forest, tiny: str, adapter: str, tmp_path: Path, caught: list[Any], name: str
) -> None:
    role, stage = name.split("_")
    notes: list[str] = []
    train: Any = train_sft if stage == "sft" else partial(train_dpo, adapter=adapter)
    with pytest.raises(Captured):
        train(role, str(forest.folder), tmp_path / "o", note=notes.append)
    trainer = caught[0]
    fit = load_fit(tiny)
    assert fit.limit == CONTEXT
    counted = check(forest.folder / "exports" / name, fit)
    lost = 0
    longest = 0
    splits = {"train": trainer.train_dataset, "validation": trainer.eval_dataset}
    for split, prepared in splits.items():
        measured = fit.measure(exported(forest, name, split))
        fitting = [one for one in measured if one.reason is None]
        lost += len(measured) - len(fitting)
        longest = max(longest, *(one.longest for one in fitting))
        assert len(prepared) == len(fitting) > 0
        for row, one in zip(prepared, fitting, strict=True):
            if stage == "sft":
                learnt = sum(label != -100 for label in row["labels"])
                assert len(row["input_ids"]) == one.longest
                assert learnt == one.texts["completion"]
            else:
                assert len(row["prompt_ids"]) == one.prompt
                assert len(row["chosen_ids"]) == one.texts["chosen"]
                assert len(row["rejected_ids"]) == one.texts["rejected"]
    assert lost == counted["too_long"] + counted["not_a_prefix"] > 0
    assert counted["too_long"] * counted["not_a_prefix"] > 0
    assert longest <= trainer.args.max_length < longest + 64
    assert len(notes) == 2  # one a split


def test_thoughts_and_variables_of_the_template_reach_the_trainer(
    tmp_path: Path, caught: list[Any]
) -> None:
    import transformers

    model = make_tiny(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    reasoning(tokenizer, SWITCH).save_pretrained(model)
    off = ChatTemplate.model_validate({"enable_thinking": False})
    forest = make_forest(tmp_path / "f", trees=6, model=model, chat_template=off)
    think(forest, ["A thought.", None])
    settings = Selection(validation=0, thinking=True, keep_truncated=True)
    export(forest, config_named("verifier_sft"), settings)
    with pytest.raises(Captured):
        train_sft("verifier", str(forest.folder), tmp_path / "o", recipe=SMALL)
    (trainer,) = caught
    measured = load_fit(model).measure(exported(forest, "verifier_sft", "train"))
    whole = [trainer.processing_class.decode(row["input_ids"]) for row in trainer.train_dataset]
    fitting = [one.longest for one in measured if one.reason is None]
    assert [len(row["input_ids"]) for row in trainer.train_dataset] == fitting != []
    assert len(fitting) < len(measured)  # with the switch off, a thought is no continuation
    assert all("<think>\n\n</think>\n\n" in text for text in whole)


def test_left_out_rows_are_noted_recorded_and_on_the_card(forest: Forest, tmp_path: Path) -> None:
    config, out = tmp_path / "c.toml", tmp_path / "out"
    config.write_text("[trainer]\nmax_length = 150\nper_device_train_batch_size = 2\n")
    words = ["--role", "verifier", "--dataset", forest.folder, "--max-steps", 1, "--json"]
    run = CliRunner().invoke(main, [*map(str, ["train", *words, "--config", config, "--out", out])])
    assert run.exit_code == 0, run.output
    record = json.loads((out / "training.json").read_text())
    assert json.loads(run.stdout)["verifier_sft"] == record
    card = (out / "README.md").read_text()
    fit = load_fit(record["model"], 150)
    for split in ("train", "validation"):
        rows = exported(forest, "verifier_sft", split)
        reasons = [one.reason for one in fit.measure(rows)]
        lost = {why: reasons.count(why) for why in ("too_long", "not_a_prefix")}
        assert min(lost.values()) > 0
        assert record["left_out"][split] == {"refused_by_template": 0, **lost}
        message = f"{sum(lost.values())} of {len(rows)} {split} rows left out at 150 tokens: "
        (line,) = [line for line in run.stderr.splitlines() if message in line]
        for why, number in lost.items():
            first = rows[reasons.index(why)]["node_id"]
            assert f"{number} {why} (" in line
            assert f"e.g. {first})" in line
            assert f"{number} {why}" in card
        if split == "train":
            assert record["rows"] == len(rows) - sum(lost.values())
    assert record["max_length"] == 150
    assert "| max_length | 150 |" in card


def test_data_without_a_fitting_row_is_refused_before_anything_is_written(
    forest: Forest, tmp_path: Path
) -> None:
    settings = Recipe(trainer={"max_length": 8})
    with pytest.raises(TrainError, match=r"no row of verifier_sft fits .*\d+ too_long.*max_length"):
        train_sft("verifier", str(forest.folder), tmp_path / "out", recipe=settings)
    settings = Recipe(sft={"max_length": "long"})
    with pytest.raises(SpecError, match=r"max_length.*got 'long'"):
        train_sft("verifier", str(forest.folder), tmp_path / "out", recipe=settings)
    assert not (tmp_path / "out").exists()
