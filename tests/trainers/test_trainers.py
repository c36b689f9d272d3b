"""SFT, DPO and teams on a tiny model: tokens, reference, files, resuming, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub_server import Hub
from shell import TRAINING, Shell
from synthetic import ROLES, make_forest
from trainers.tiny import make_tiny

from malt_data.engines.transformers import TransformersEngine
from malt_data.errors import MaltError, SpecError, TrainError
from malt_data.exporters.export import export
from malt_data.exporters.selection import Selection
from malt_data.forests.forest import Forest, open_forest
from malt_data.prompts.templates import render
from malt_data.schemas.exports import config_named, recipe_configs
from malt_data.schemas.team import Team
from malt_data.storage.team import read_team, write_team
from malt_data.trainers import training
from malt_data.trainers.card import render_adapter_card
from malt_data.trainers.dpo import require_reference, train_dpo
from malt_data.trainers.recipe import Recipe, epochs, read_recipe
from malt_data.trainers.sft import train_sft
from malt_data.trainers.team import train_team

pytestmark = [
    pytest.mark.model,
    # torch's own: its checkpoint and scheduler code still calls what it deprecates
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
]

FAST = Recipe(
    trainer={"per_device_train_batch_size": 2, "save_steps": 2, "max_length": 256},
    baselines=False,  # test_baselines.py
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> Forest:
    forest = make_forest(tmp_path_factory.mktemp("forest") / "f", trees=24, n=(3, 3, 2), model=tiny)
    for config in recipe_configs(ROLES):
        export(forest, config, Selection(validation=0.3))
    return forest


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, forest: Forest) -> Path:
    out = tmp_path_factory.mktemp("sft") / "verifier"
    train_sft("verifier", str(forest.folder), out, recipe=FAST, max_steps=3)
    return out


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


# --- tokens ---------------------------------------------------------------------------------------


def sent_by_build(forest: Forest, node_id: str, engine: Any) -> list[int]:
    """Return the prompt's tokens as the engine encodes what `build` renders."""
    nodes = {row["node_id"]: row for row in forest.nodes().collect().to_dicts()}
    questions = {row["question_id"]: row for row in forest.questions().collect().to_dicts()}
    steps = node_id.split("/")
    question = questions[steps[0]]
    path = ["/".join(steps[: i + 1]) for i in range(1, len(steps) - 1)]
    messages = render(
        forest.manifest.spec.prompts, forest.manifest.spec.pipeline, question["kind"],
        question["question"], question["choices"], [nodes[name]["text"] for name in path],
    )  # fmt: skip
    tokens: list[int] = engine._loaded.result().encode(messages)
    return tokens


@pytest.mark.parametrize("role", ["generator", "verifier", "refiner"])
def test_the_loss_is_on_the_completion_and_the_prompt_is_what_build_sent(
    forest: Forest, tiny: str, tmp_path: Path, caught: list[Any], role: str
) -> None:
    import asyncio

    engine = asyncio.run(TransformersEngine.open(tiny))
    with pytest.raises(Captured):
        train_sft(role, str(forest.folder), tmp_path / "out", recipe=FAST)
    trainer = caught[0]
    data = training_rows(forest, f"{role}_sft")
    rows = list(trainer.train_dataset)
    assert len(rows) == len(data)
    tokenizer = trainer.processing_class
    for row, source in list(zip(rows, data, strict=True))[:12]:
        labels = trainer.data_collator([row])["labels"][0]
        tokens = torch.tensor(row["input_ids"])
        trained = tokens[labels[: len(tokens)] != -100].tolist()
        prompt = tokens[: len(tokens) - len(trained)].tolist()
        assert prompt == sent_by_build(forest, source["node_id"], engine)
        text = source["completion"][0]["content"]
        assert tokenizer.decode(trained) == f"{text}<|im_end|>\n"
    asyncio.run(close(engine))


@pytest.mark.parametrize("role", ["verifier", "refiner"])
def test_dpo_gets_the_same_prompts_and_both_texts(
    forest: Forest, tiny: str, sft: Path, tmp_path: Path, caught: list[Any], role: str
) -> None:
    import asyncio

    engine = asyncio.run(TransformersEngine.open(tiny))
    with pytest.raises(Captured):
        train_dpo(role, str(forest.folder), tmp_path / "o", adapter=str(sft), recipe=FAST)
    trainer = caught[0]
    data = training_rows(forest, f"{role}_dpo")
    for row, source in list(zip(trainer.train_dataset, data, strict=True))[:12]:
        assert row["prompt_ids"] == sent_by_build(forest, source["chosen_id"], engine)
        for side in ("chosen", "rejected"):
            text = trainer.processing_class.decode(row[f"{side}_ids"])
            assert text == source[side][0]["content"] + "<|im_end|>\n"
    asyncio.run(close(engine))


async def close(engine: Any) -> None:
    await engine.close()


def training_rows(forest: Forest, name: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    folder = forest.folder / "exports" / name
    found: list[dict[str, Any]] = pq.read_table(folder / "train-00000.parquet").to_pylist()
    return found


# --- what comes out -------------------------------------------------------------------------------


def test_an_adapter_is_complete_and_documents_its_training(
    forest: Forest, tiny: str, sft: Path
) -> None:
    names = {path.name for path in sft.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "training.json",
            "metrics.jsonl", "curves.svg"} <= names  # fmt: skip
    assert not names & {"ref", "checkpoints"}
    record = json.loads((sft / "training.json").read_text())
    assert record["steps"] == 3
    assert record["model"] == tiny
    assert record["report"]["config"] == "verifier_sft"
    lines = [json.loads(line) for line in (sft / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    assert any("eval_loss" in line for line in lines)
    card = (sft / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "peft"
    for dropped, count in record["report"]["dropped"].items():
        assert f"| {count} | {dropped} |" in card
    assert ET.parse(sft / "curves.svg").getroot().tag.endswith("svg")
    for model, shown in {"ann/base": "ann/base", "../base": None, "a/b/c": None}.items():
        card = render_adapter_card(record | {"model": model})
        assert yaml.safe_load(card.split("---\n")[1]).get("base_model") == shown


def test_the_saved_adapter_is_the_trained_one_and_the_reference_stays(
    forest: Forest, tiny: str, sft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft
    import transformers

    seen: list[Any] = []
    real = training.save

    def save(trainer: Any, *rest: Any) -> Any:
        seen.append(trainer)
        return real(trainer, *rest)

    monkeypatch.setattr("malt_data.trainers.training.save", save)
    settings = FAST.model_copy(update={"dpo": {"learning_rate": 1e-2}})
    out = tmp_path / "dpo"
    record = train_dpo(
        "verifier", str(forest.folder), out, adapter=str(sft), recipe=settings, max_steps=4
    )
    assert record["adapter"] == str(sft)
    first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3)  # the policy is its reference
    assert not (out / "ref").exists()
    inside = seen[0].model
    tokens = torch.tensor([[1, 5, 9, 300, 4000]])

    def fresh(adapter: Path) -> torch.Tensor:
        base = transformers.AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
        with torch.no_grad():
            logits: torch.Tensor = peft.PeftModel.from_pretrained(base, str(adapter))(tokens).logits
        return logits[:, -1].softmax(-1)

    inside.eval()
    with torch.no_grad():
        trained = inside(tokens).logits[:, -1].softmax(-1)
        inside.set_adapter("ref")
        reference = inside(tokens).logits[:, -1].softmax(-1)
    assert torch.allclose(fresh(out), trained, atol=1e-6)
    assert torch.allclose(fresh(sft), reference, atol=1e-6)
    assert (trained - reference).abs().max() > 1e-6


def test_a_wrong_reference_model_is_detected(
    forest: Forest, sft: Path, tmp_path: Path, caught: list[Any]
) -> None:
    with pytest.raises(Captured):
        train_dpo("verifier", str(forest.folder), tmp_path / "o", adapter=str(sft), recipe=FAST)
    model = caught[0].model
    require_reference(model)
    weights = dict(model.named_parameters())
    name = next(n for n in weights if ".ref." in n)
    weights[name].data.add_(1.0)
    with pytest.raises(TrainError, match="reference"):
        require_reference(model)


# --- long work ------------------------------------------------------------------------------------


def test_a_finished_training_is_kept_and_a_different_one_refused(
    forest: Forest, sft: Path, tmp_path: Path
) -> None:
    before = (sft / "adapter_model.safetensors").stat().st_mtime_ns
    train_sft("verifier", str(forest.folder), sft, recipe=FAST, max_steps=3)
    assert (sft / "adapter_model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(TrainError, match=r"a different max_steps \(3, now 4\).*--out"):
        train_sft("verifier", str(forest.folder), sft, recipe=FAST, max_steps=4)
    recipe = FAST.updated(lora={"target_modules": ["q_projj"]})
    with pytest.raises(SpecError, match="q_projj"):
        train_sft("verifier", str(forest.folder), tmp_path / "o", recipe=recipe, max_steps=3)
    (tmp_path / "o" / "checkpoints").mkdir(parents=True, exist_ok=True)  # and stops nobody
    train_sft("verifier", str(forest.folder), tmp_path / "o", recipe=FAST, max_steps=1)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(TrainError, match="contains other files"):
        train_sft("verifier", str(forest.folder), tmp_path, recipe=FAST)


def test_several_gpus_are_refused_with_the_way_out(
    forest: Forest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl.trainer.sft_config import SFTConfig

    monkeypatch.setattr(SFTConfig, "n_gpu", 2)
    with pytest.raises(TrainError, match=r"2 GPUs are visible.*accelerate launch"):
        train_sft("verifier", str(forest.folder), tmp_path / "o", recipe=FAST)


def test_more_passes_over_few_rows_than_in_the_paper_are_pointed_out(
    forest: Forest, tmp_path: Path, caught: list[Any]
) -> None:
    notes: list[str] = []
    for steps in (1, 1000):
        with pytest.raises(Captured):
            train_sft(
                "verifier", str(forest.folder), tmp_path / str(steps), recipe=FAST,
                max_steps=steps, note=notes.append,
            )  # fmt: skip
    (found,) = [note for note in notes if "passes over" in note]
    assert found.startswith("verifier_sft: 1000 steps are")


def test_killed_and_resumed_ends_with_the_same_metrics(forest: Forest, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[trainer]\nper_device_train_batch_size = 2\nsave_steps = 2\n")
    words = [sys.executable, "-m", "malt_data", "train", "--role", "refiner", "--dataset",
             str(forest.folder), "--config", str(config), "--max-steps", "12"]  # fmt: skip
    recipe = read_recipe(overrides=config)
    train_sft("refiner", str(forest.folder), tmp_path / "a", recipe=recipe, max_steps=12)
    child = subprocess.Popen(
        [*words, "--out", str(tmp_path / "b")], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    checkpoints = tmp_path / "b" / "checkpoints"
    for _ in range(12_000):  # the libraries take a minute to import on a busy machine
        if list(checkpoints.glob("checkpoint-*/trainer_state.json")):
            break
        assert child.poll() is None, child.communicate()
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    assert not (tmp_path / "b" / "training.json").exists()
    torn = checkpoints / "checkpoint-999"
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"epoch": 1.')
    run = subprocess.run([*words, "--out", str(tmp_path / "b"), "--json"], capture_output=True)
    assert run.returncode == 0, run.stderr
    json.loads(run.stdout)  # nothing else was written to stdout
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
            if '"loss"' in line
        ]
        for name in "ab"
    ]
    assert len(losses[0]) == 12
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


def test_the_script_runs_under_accelerate_on_two_processes(forest: Forest, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
              "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
              "-m", "malt_data", "train"]  # fmt: skip
    words = ["--role", "refiner", "--dataset", str(forest.folder), "--max-steps", "2"]
    run = subprocess.run(
        [*launch, *words, "--out", str(tmp_path / "out")], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert json.loads((tmp_path / "out" / "training.json").read_text())["steps"] == 2
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert len([line for line in lines if '"loss"' in line]) == 2


def test_a_team_is_trained_in_order_and_grows_the_next_forest(
    forest: Forest, tiny: str, tmp_path: Path
) -> None:
    out = tmp_path / "team"
    forest = open_forest(shutil.copytree(forest.folder, tmp_path / "own"))  # to be added to
    notes: list[str] = []
    records = train_team(str(forest.folder), out, recipe=FAST, max_steps=1, note=notes.append)
    assert list(records) == [config.name for config in recipe_configs(ROLES)]
    assert records["refiner_dpo"]["adapter"] == str(out / "refiner_sft")
    team = read_team(out / "team.toml")
    assert team.model == tiny
    assert team.adapters == {
        "generator": str(out / "generator_sft"),
        "verifier": str(out / "verifier_dpo"),
        "refiner": str(out / "refiner_dpo"),
    }
    assert team.data["verifier_dpo"] == str(forest.folder)
    assert team.pipeline.roles == tuple(team.adapters)
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("*/adapter_model.safetensors")}
    train_team(str(forest.folder), out, recipe=FAST, max_steps=1)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps

    more = FAST.model_copy(update={"dpo_first": True})  # §5.2
    with pytest.raises(TrainError, match=r"malt-data export .* --role generator --format dpo"):
        train_team(str(forest.folder), out, recipe=more, max_steps=1)
    export(forest, config_named("generator_dpo"))
    records = train_team(str(forest.folder), out, recipe=more, max_steps=1)
    assert records["generator_dpo"]["adapter"] == str(out / "generator_sft")
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    team = read_team(out / "team.toml")
    assert team.adapters["generator"] == str(out / "generator_dpo")
    assert team.sft["generator"] == str(out / "generator_sft")

    words = ["--n", "2", "--limit", "1", "--max-tokens", "4", "--team", str(out / "team.toml")]
    command = [sys.executable, "-m", "malt_data", "build", *words, "--out", str(tmp_path / "next")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    query = "SELECT DISTINCT role::VARCHAR AS role, adapter FROM nodes"
    assert dict(open_forest(tmp_path / "next").sql(query).iter_rows()) == team.adapters


# --- what is refused, before the hours of work ----------------------------------------------------


def test_unsuitable_data_is_refused_before_training(
    forest: Forest, tiny: str, sft: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    empty = make_forest(tmp_path / "e", trees=1, n=(1, 1, 1), model=tiny)
    export(empty, config_named("verifier_dpo"))
    folder = str(forest.folder)

    def refused(message: str, train: Any, *words: Any, kind: Any = TrainError, **more: Any) -> None:
        with pytest.raises(kind, match=message):
            train(*words, out, **{"recipe": FAST, **more})
        assert not out.exists() or not any(out.iterdir())

    adapter = {"adapter": str(sft)}
    one = f"{folder}/exports/verifier_sft"
    refused("no export generator_dpo.*malt-data export", train_dpo, "generator", folder, **adapter)
    message = r"No turn has the role 'refinr'; the roles are generator, .*Did you mean refiner"
    refused(message, train_sft, "refinr", folder, kind=SpecError)
    refused("has no rows for", train_dpo, "verifier", str(empty.folder), **adapter)
    refused("contains verifier_sft, not verifier_dpo", train_dpo, "verifier", one, **adapter)
    refused("was sampled by .*--other-model", train_sft, "verifier", folder, model="other")
    refused("is not a dataset", train_sft, "verifier", str(tmp_path / "none"))
    refused("could not be loaded", train_dpo, "verifier", folder, adapter=str(tmp_path))
    wrong = Recipe(trainer={"lerning_rate": 1})
    refused("lerning_rate", train_sft, "verifier", folder, recipe=wrong, kind=SpecError)
    wrong = Recipe(lora={"rank": 1})
    refused("rank", train_sft, "verifier", folder, recipe=wrong, kind=SpecError)
    parquet = tmp_path / "foreign"
    parquet.mkdir()
    (parquet / "train-0.parquet").write_bytes((forest.folder / "questions.parquet").read_bytes())
    refused("no column 'completion'", train_sft, "verifier", str(parquet), model=tiny)
    (parquet / "train-0.parquet").write_bytes(b"no parquet")
    refused("cannot be read", train_sft, "verifier", str(parquet), model=tiny, kind=MaltError)


def test_a_full_disk_is_refused_before_training(
    forest: Forest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    full = shutil._ntuple_diskusage(100, 99, 1)
    monkeypatch.setattr("malt_data.trainers.training.shutil.disk_usage", lambda _: full)
    with pytest.raises(TrainError, match="MiB free, but training needs"):
        train_sft("verifier", str(forest.folder), tmp_path / "out", recipe=FAST)


def test_settings_come_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[trainer]\nlearning_rate = 1e-3\n[dpo]\nbeta = 0.5\n[lora]\nr = 4\n")
    settings = read_recipe(overrides=path)
    assert settings.arguments("sft", 100)["learning_rate"] == 1e-3
    assert settings.arguments("sft", 100)["num_train_epochs"] == epochs(100) == 10
    assert settings.arguments("dpo", 100)["beta"] == 0.5
    assert Recipe().arguments("dpo", 100)["beta"] == 0.2  # §A.9
    path.write_text("[trainers]\n")
    with pytest.raises(SpecError, match="unknown setting 'trainers'"):
        read_recipe(overrides=path)
    path.write_text("[")
    with pytest.raises(SpecError, match="not valid TOML"):
        read_recipe(overrides=path)


def test_a_team_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "team.toml"
    hostile = 'a"b\\c\n[x]'
    write_team(path, Team(model=hostile, adapters={"verifier": "me/v"}, data={}))
    assert read_team(path) == Team(model=hostile, adapters={"verifier": "me/v"})
    path.write_text('model = "m"\n[adapters]\ncritic = "c"\n')
    with pytest.raises(SpecError, match=r"team\.toml: No turn has the role 'critic'"):
        read_team(path)
    path.write_text('modle = "m"\n')
    with pytest.raises(SpecError, match="unknown setting 'modle'"):
        read_team(path)


# --- the Hub --------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def shell(hub: Hub, tmp_path: Path) -> Iterator[Shell]:
    """Where this Hub is the only one, and its cache another than that of who pushed the data."""
    with Shell(hub.environment(tmp_path / "elsewhere"), TRAINING) as shell:
        yield shell


def test_from_the_hub_at_a_pinned_commit_and_back(
    forest: Forest, hub: Hub, shell: Shell, tmp_path: Path
) -> None:
    def malt(*words: object, code: int = 0, token: str | None = "hf_writer") -> tuple[str, str]:
        environment = hub.environment(tmp_path / "elsewhere", token)
        done = shell.run(words, tmp_path, environment, seconds=300)
        assert done.code == code, done.err
        assert "Traceback" not in done.err
        return done.out, done.err

    push = ["push", str(forest.folder), "ann/trees", "--tag", "v1"]
    environment = hub.environment(tmp_path / "a")
    subprocess.run([sys.executable, "-m", "malt_data", *push], env=environment, check=True)
    commit = hub.commits("dataset", "ann/trees", "v1")[0].oid
    out = tmp_path / "out"
    words = ["train", "--role", "verifier", "--dataset", "ann/trees@v1", "--out", out,
             "--max-steps", "1"]  # fmt: skip
    message, _ = malt(*words, "--push", "ann/verifier", "--json")
    assert json.loads(message)["verifier_sft"]["data"] == f"ann/trees@{commit}"
    files = hub.files("model", "ann/verifier", "main")
    assert files["adapter_model.safetensors"] == (out / "adapter_model.safetensors").read_bytes()
    assert commit in files["README.md"].decode()
    assert "ann/trees" in yaml.safe_load(files["README.md"].decode().split("---\n")[1])["datasets"]
    pushed = len(hub.commits("model", "ann/verifier", "main"))
    malt(*words, "--push", "ann/verifier")  # finished: nothing trained, nothing sent
    assert len(hub.commits("model", "ann/verifier", "main")) == pushed
    dpo = ["train", "--role", "verifier", "--stage", "dpo", "--dataset", "ann/trees", "--max-steps",
           "1", "--adapter", "ann/verifier"]  # fmt: skip
    malt(*dpo, "--out", tmp_path / "dpo")  # from an adapter on the Hub
    missing = ["--dataset", "ann/trees", "--out", tmp_path / "no"]
    _, error = malt(*dpo, *missing, "--role", "generator", code=1)
    assert "has no config generator_dpo (it has generator_sft, " in error
    hidden = ["train", "--role", "refiner", "--dataset", "ann/hidden", "--out", tmp_path / "no"]
    _, error = malt(*hidden, code=1, token=None)
    assert "is not on the Hub, or you have no access to it" in error
    _, error = malt(*dpo[:-1], "ann/none", "--out", tmp_path / "no", code=1)
    assert "ann/none could not be loaded" in error
    assert not (tmp_path / "no").exists()
