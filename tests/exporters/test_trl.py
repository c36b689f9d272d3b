"""TRL's own trainers take every config as it is: one step each, on exactly the right tokens.

The model is SmolLM2's architecture, tiny and random; tokenizer and chat template are the embedded
model's own.
"""

import math
from pathlib import Path
from typing import Any

import pytest
from synthetic import ALL, begin, make_forest, think
from templates import SWITCH, reasoning
from trainers.tiny import make_tiny

from malt_data.exporters.check import check
from malt_data.exporters.export import export
from malt_data.exporters.fit import Fit
from malt_data.exporters.selection import Selection
from malt_data.schemas.exports import VARIABLES, config_named
from malt_data.schemas.pipeline import ChatTemplate

trl = pytest.importorskip("trl")

pytestmark = pytest.mark.model

TRAINERS = {
    "sft": ["SFT"],
    "dpo": ["DPO", "Reward"],
    "kto": ["KTO"],
    "trajectory": ["SFT"],
    "value": ["SFT", "RLOO"],
}
CASES = [(config.name, name) for config in ALL for name in TRAINERS[config.format.name]]
VERIFIER = "{question}\n{initial_answer}\n<|im_end|> Is it right? äöü 🙂 "
BEGINNINGS = ["", " ", "\n", "🙂 ", "<|im_end|>\n<|im_start|>user\n", "日本\u202e", "\t{question}"]
END = "<|im_end|>\n"
"""What the chat template sets behind a completion; learnt too, so that the model stops."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a model that TRL loads by its name."""
    return make_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every config, each in the folder of its name, of a forest with odd texts."""
    folder = tmp_path_factory.mktemp("exports")
    prompts = {"numeric": {"verifier": {"system": "You check.", "user": VERIFIER}}}
    forest = make_forest(folder / "forest", trees=16, n=(2, 2, 3), prompts=prompts)
    begin(forest, BEGINNINGS)
    selection = Selection(validation=0.3, max_per_question=2)
    for config in ALL:
        export(forest, config, selection, folder / config.name)
    return folder


def load(folder: Path) -> Any:
    import datasets

    files = {path.name.partition("-")[0]: str(path) for path in folder.glob("*.parquet")}
    return datasets.load_dataset("parquet", data_files=files, cache_dir=str(folder / "cache"))


def make_trainer(name: str, model: str, rows: Any, out: Path, **more: Any) -> Any:
    settings: dict[str, Any] = {"num_generations": 2, "max_completion_length": 4}
    args = getattr(trl, f"{name}Config")(
        output_dir=str(out),
        max_steps=1,
        per_device_train_batch_size=2,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        **(settings if name == "RLOO" else {}),
    )
    return getattr(trl, f"{name}Trainer")(
        model=model,
        args=args,
        train_dataset=rows["train"],
        eval_dataset=rows.get("validation"),
        **more,
    )


def learnt(trainer: Any) -> list[tuple[str, str]]:
    """Return (what is only read, what the loss is taken on) of every sequence, as text."""
    batch = trainer.data_collator(list(trainer.train_dataset))
    seen = batch["attention_mask"].bool()
    if "labels" in batch:
        mask = batch["labels"] != -100
        assert (batch["labels"] == batch["input_ids"])[mask].all()
    else:  # a reward model scores the whole sequence
        mask = batch["completion_mask"].bool() if "completion_mask" in batch else seen
    decode = trainer.processing_class.decode
    return [
        (decode(ids[one & ~on]), decode(ids[on]))
        for ids, one, on in zip(batch["input_ids"], seen, mask, strict=True)
    ]


@pytest.mark.parametrize(("config", "name"), CASES)
def test_a_training_step_on_an_export_only_learns_its_texts(
    exports: Path, model: str, tmp_path: Path, config: str, name: str
) -> None:
    rows = load(exports / config)
    assert set(rows) == {"train", "validation"}
    given: list[float] = []

    def reward(completions: list[Any], value: list[float], **_: Any) -> list[float]:
        given.extend(value)
        return [one + place for place, one in enumerate(value)]

    more = {"reward_funcs": reward} if name == "RLOO" else {}
    trainer = make_trainer(name, model, rows, tmp_path, **more)
    if name != "RLOO":  # it samples its own texts
        assert learnt(trainer) == expected(name, rows["train"], trainer.processing_class)
    trainer.train()
    assert trainer.state.global_step == 1
    logged = trainer.state.log_history[0]
    assert math.isfinite(logged["loss"])
    assert logged["grad_norm"] > 0
    if name == "RLOO":
        assert given
        assert set(given) <= set(rows["train"]["value"])


def expected(name: str, rows: Any, tokenizer: Any) -> list[tuple[str, str]]:
    """Return (what is only read, what is to be learnt) of every text, by the chat template."""
    sides = ("chosen", "rejected") if "chosen" in rows.column_names else ("completion",)
    found = []
    for side in sides:
        for row in rows:
            prompt = tokenizer.apply_chat_template(
                row["prompt"], tokenize=False, add_generation_prompt=True
            )
            text = row[side][0]["content"] + END
            found.append(("", prompt + text) if name == "Reward" else (prompt, text))
    return found


def test_a_row_that_the_check_reports_would_be_trained_wrongly(model: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    forest = make_forest(tmp_path / "f", trees=4)
    begin(forest, ["\n\n"])  # merges with the end of the prompt into other tokens
    export(forest, config_named("generator_value"), Selection(validation=0), tmp_path / "out")
    rows = load(tmp_path / "out")
    trainer = make_trainer("SFT", model, rows, tmp_path)
    texts = [row["completion"][0]["content"] + END for row in rows["train"]]
    assert all(found != text for (_, found), text in zip(learnt(trainer), texts, strict=True))
    (problem,) = check(tmp_path / "out", Fit(AutoTokenizer.from_pretrained(model)))["problems"]
    assert f"{len(texts)} rows have a prompt that is not a prefix" in problem


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same model with the chat template of a reasoning model."""
    from transformers import AutoTokenizer

    folder = make_tiny(tmp_path_factory.mktemp("thinker"))
    reasoning(AutoTokenizer.from_pretrained(folder), SWITCH).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("enabled", [None, False, True])
@pytest.mark.parametrize(("config", "name"), [("refiner_sft", "SFT"), ("refiner_dpo", "DPO")])
def test_thoughts_and_variables_of_the_template_reach_the_trainer_as_measured(
    thinker: str, tmp_path: Path, config: str, name: str, enabled: bool | None, thinking: bool
) -> None:
    from transformers import AutoTokenizer

    template = ChatTemplate() if enabled is None else ChatTemplate(enable_thinking=enabled)
    forest = make_forest(tmp_path / "f", trees=6, n=(2, 3, 2), chat_template=template)
    if enabled is not False:
        think(forest, ["A thought.", None, "Another\n\nthought."])
    selection = Selection(validation=0, max_per_question=3, thinking=thinking)
    export(forest, config_named(config), selection, tmp_path / "out")
    rows = load(tmp_path / "out")
    assert (VARIABLES in rows["train"].column_names) == (enabled is not None)
    fit = Fit(AutoTokenizer.from_pretrained(thinker))
    trainer = make_trainer(name, thinker, rows, tmp_path / "trainer")
    sides = ["completion"] if name == "SFT" else ["chosen", "rejected"]
    rendered = [fit.render(row, side) for side in sides for row in rows["train"]]
    assert None not in rendered
    found = learnt(trainer)
    assert found == [(one[0], one[1].removeprefix(one[0])) for one in rendered if one]
    assert any("thought." in text for _, text in found) == (thinking and enabled is not False)
    ends = all(prompt.endswith("<think>\n\n</think>\n\n") for prompt, _ in found)
    assert ends == (enabled is False)
    for row, one in zip(trainer.train_dataset, fit.measure(list(rows["train"])), strict=True):
        assert one.reason is None
        if name == "SFT":
            assert len(row["input_ids"]) == one.longest
            assert sum(label != -100 for label in row["labels"]) == one.texts["completion"]
        else:
            assert len(row["prompt_ids"]) == one.prompt
            assert [len(row[f"{side}_ids"]) for side in sides] == [one.texts[s] for s in sides]
