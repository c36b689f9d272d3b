"""Recipes, adapters to start from, seeds and costs, on a tiny model."""

import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from synthetic import make_forest
from trainers.tiny import make_tiny

from malt_data.cli import main
from malt_data.errors import SpecError
from malt_data.exporters.export import export
from malt_data.exporters.selection import Selection
from malt_data.forests.forest import Forest
from malt_data.schemas.exports import config_named
from malt_data.trainers import training
from malt_data.trainers.dpo import train_dpo
from malt_data.trainers.recipe import BASE, STAGES, Recipe, read_recipe, recipes
from malt_data.trainers.sft import train_sft

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
]


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    folder = tmp_path_factory.mktemp("forest")
    tiny = make_tiny(folder / "tiny")
    forest = make_forest(folder / "f", trees=6, n=(2, 2, 2), model=tiny)
    export(forest, config_named("verifier_sft"), Selection(validation=0.5))
    export(forest, config_named("verifier_dpo"), Selection(validation=0))
    return forest


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, forest: Forest) -> Path:
    """An adapter that differs from the base model, and was evaluated at its end."""
    out = tmp_path_factory.mktemp("sft") / "verifier"
    settings = Recipe(sft={"learning_rate": 3e-2})
    train_sft("verifier", str(forest.folder), out, recipe=settings, max_steps=3)
    return out


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", recipes())
def test_the_first_loss_is_that_of_the_recipe(
    forest: Forest, sft: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    real = training.run_training

    def run(*args: Any) -> Any:
        seen.append(args[0])
        return real(*args)

    monkeypatch.setattr(training, "run_training", run)
    whole = tmp_path / "whole.toml"  # all rows in one batch: what is logged can be recomputed
    whole.write_text("[trainer]\nper_device_train_batch_size = 64\n")
    out = tmp_path / "dpo"
    settings = read_recipe(name, whole)
    train_dpo("verifier", str(forest.folder), out, adapter=str(sft), recipe=settings, max_steps=2)
    first, second = (line for line in logged(out) if "loss" in line)
    rows = seen[0].train_dataset
    tokens = sum(len(ids) for ids in rows["chosen_ids"])
    nll = -first["logps/chosen"] * len(rows) / tokens
    expected = {  # the policy is its reference still, so every log-ratio is 0
        "malt": math.log(2),
        "dpo-nll": math.log(2) + nll,
        "dpo-norm": math.log(2),
        "dpo-anchored": 1.0,
    }
    assert first["loss"] == pytest.approx(expected[name], abs=2e-3)
    assert nll > 1
    assert math.isfinite(second["loss"])


def test_a_config_overrides_the_recipe_and_the_recipe_the_papers(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[trainer]\nbeta = 0.7\n[lora]\nr = 4\n")
    dpo = read_recipe("dpo-norm", config).arguments("dpo", 100)
    assert (dpo["loss_type"], dpo["beta"]) == (["sigmoid_norm"], 0.7)
    assert read_recipe("dpo-norm").arguments("dpo", 100)["beta"] == 5.0
    assert read_recipe("dpo-norm", config).lora_arguments()["r"] == 4
    assert read_recipe(str(config), config) == read_recipe(overrides=config)
    with pytest.raises(SpecError, match=r"Unknown recipe 'dpo-nil'\. Choose from malt, .*dpo-nll"):
        read_recipe("dpo-nil")
    seeded = read_recipe("dpo-nll").seeded(3)
    assert [seeded.arguments(stage, 1)["seed"] for stage in STAGES] == [3, 3]
    assert Recipe().seeded(0) == Recipe()  # a training started without --seed is the same one


def test_an_unknown_loss_is_named(forest: Forest, sft: Path, tmp_path: Path) -> None:
    settings = Recipe(dpo={"loss_type": ["sigmod"]})
    with pytest.raises(SpecError, match=r"\[dpo\] Unknown loss type: sigmod"):
        train_dpo("verifier", str(forest.folder), tmp_path / "o", adapter=str(sft), recipe=settings)


def test_every_recipe_starts_with_its_command_and_is_in_the_help() -> None:
    message = "".join(
        CliRunner().invoke(main, ["train", "--help"]).output.split()
    )  # wraps at hyphens
    assert recipes()[0] == BASE
    for name in recipes():
        text = (resources.files("malt_data.trainers") / "recipes" / f"{name}.toml").read_text()
        assert text.startswith(f"# malt-data train --role all --recipe {name} --out ")
        assert name in message


def test_sft_from_an_adapter_starts_at_its_loss(forest: Forest, sft: Path, tmp_path: Path) -> None:
    recipe = Recipe(trainer={"eval_on_start": True})
    out = tmp_path / "more"
    options: dict[str, Any] = {"recipe": recipe, "max_steps": 1}
    record = train_sft("verifier", str(forest.folder), out, adapter=str(sft), **options)
    train_sft("verifier", str(forest.folder), tmp_path / "fresh", **options)
    losses = [
        next(line["eval_loss"] for line in logged(folder) if "eval_loss" in line)
        for folder in (out, tmp_path / "fresh")
    ]
    ended = [line["eval_loss"] for line in logged(sft) if "eval_loss" in line][-1]
    assert losses[0] == pytest.approx(ended, abs=1e-3)
    assert abs(losses[1] - ended) > 0.05
    assert record["adapter"] == str(sft)
    assert f"| started from | {sft} |" in (out / "README.md").read_text()


def test_a_record_has_the_cost_of_the_training(sft: Path) -> None:
    record = json.loads((sft / "training.json").read_text())
    assert record["tokens"] == record["metrics"]["num_tokens"] > 0
    assert 0 < record["seconds"] < 600
    assert record["tokens_per_second"] == pytest.approx(record["tokens"] / record["seconds"], rel=1)
    assert 2**26 < record["peak_memory"] < 2**36
    assert record["device"]
    card = (sft / "README.md").read_text()
    assert f"| wall-clock | {record['seconds']} s |" in card
    assert f"| device | {record['device']} |" in card


def test_a_resumed_training_adds_up_seconds_and_tokens(
    forest: Forest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(trainer={"save_steps": 2, "eval_strategy": "no"})
    options: dict[str, Any] = {"recipe": recipe, "max_steps": 4}
    whole = train_sft("verifier", str(forest.folder), tmp_path / "a", **options)

    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    out = tmp_path / "b"
    with pytest.raises(KeyboardInterrupt):
        train_sft("verifier", str(forest.folder), out, on_progress=interrupt, **options)
    state = json.loads((out / "checkpoints" / "checkpoint-2" / "trainer_state.json").read_text())
    before = state["log_history"][-1]
    record = train_sft("verifier", str(forest.folder), out, **options)
    assert record["tokens"] == whole["tokens"] > before["num_tokens"]
    assert record["seconds"] > before["seconds"] > 0
    seconds = [line["seconds"] for line in logged(out)]
    assert seconds == sorted(seconds)
