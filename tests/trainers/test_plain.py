"""Plain text in training, without a chat template: the tokens that the engine sampled with."""

import asyncio
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers
from tokenizers.processors import TemplateProcessing
from trainers.tiny import make_tiny
from untemplated import without_chat_template

from malt_data.engines.transformers import TransformersEngine
from malt_data.errors import ExportError
from malt_data.exporters.check import check
from malt_data.exporters.export import ExportReport
from malt_data.exporters.fit import load_fit
from malt_data.exporters.selection import Selection
from malt_data.prompts.resolve import resolve_sampling
from malt_data.prompts.templates import render
from malt_data.schemas import layout
from malt_data.schemas.pipeline import ChatTemplate
from malt_data.schemas.spec import BuildSpec, Labels
from malt_data.trainers.dpo import train_dpo
from malt_data.trainers.recipe import Recipe
from malt_data.trainers.sft import train_sft

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
]

FAST = Recipe(trainer={"per_device_train_batch_size": 4})
PLAIN = BuildSpec(engine="openai", model="m", chat_template=ChatTemplate(plain=True))


def prompts() -> list[str]:
    """The generator's and the verifier's prompts of eight sums, some with odd texts."""
    spec = resolve_sampling(PLAIN)
    found = []
    for number in range(8):
        for texts in ((), ((" 🙂", " 3.", "", " äö")[number % 4],)):
            question = f"What is {number} + 1?"
            prompt = render(
                spec.prompts, spec.pipeline, "numeric", question, None, texts, plain=True
            )
            assert isinstance(prompt, str)
            found.append(prompt)
    return found


def write_rows(folder: Path, stage: str, rows: list[dict[str, Any]]) -> str:
    """Write rows in the format of an export; return the name of the folder."""
    ids = ("node_id",) if stage == "sft" else ("chosen_id", "rejected_id")
    for number, row in enumerate(rows):
        row |= {"question_id": f"q{number}"} | {name: f"q{number}/{name}" for name in ids}
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000.parquet")
    report = ExportReport(
        config=f"verifier_{stage}", selection=Selection(), labels=Labels(), forest="", model=None
    )
    (folder / layout.EXPORT).write_text(report.to_json())
    return str(folder)


@pytest.fixture(scope="module")
def sft_rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [{"prompt": each, "completion": " 3 + 1 = 4. Final Answer: 4"} for each in prompts()]
    return write_rows(tmp_path_factory.mktemp("rows") / "sft", "sft", rows)


@pytest.fixture(scope="module")
def dpo_rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    texts = {"chosen": " Yes, 4 is right.", "rejected": " No. Final Answer: 5"}
    rows = [{"prompt": each, **texts} for each in prompts()]
    return write_rows(tmp_path_factory.mktemp("rows") / "dpo", "dpo", rows)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model without a chat template, whose tokenizer begins every text with a token."""
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny(folder / "tiny")
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder / "tiny")
    begin = ("<repo_name>", tokenizer.convert_tokens_to_ids("<repo_name>"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin[0]} $A", special_tokens=[begin]
    )
    tokenizer.save_pretrained(folder / "tiny")
    return without_chat_template(folder / "base", str(folder / "tiny"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, base: str, sft_rows: str) -> str:
    out = tmp_path_factory.mktemp("sft") / "verifier"
    train_sft("verifier", sft_rows, out, model=base, max_steps=2, recipe=FAST)
    return str(out)


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_training_gets_the_tokens_that_the_engine_sampled_with(
    base: str,
    adapter: str,
    sft_rows: str,
    dpo_rows: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    async def encode() -> list[list[int]]:
        engine = await TransformersEngine.open(base)
        tokens = [engine._loaded.result().encode(prompt) for prompt in prompts()]
        await engine.close()
        return tokens

    sampled = asyncio.run(encode())
    assert len({tuple(tokens[:1]) for tokens in sampled}) == 1  # the token that begins every text

    caught: list[Any] = []

    def run(trainer: Any, *_: object) -> None:
        caught.append(trainer)
        raise KeyboardInterrupt

    monkeypatch.setattr("malt_data.trainers.training.run_training", run)
    train: Any = train_sft if stage == "sft" else partial(train_dpo, adapter=adapter)
    rows = sft_rows if stage == "sft" else dpo_rows
    with pytest.raises(KeyboardInterrupt):
        train("verifier", rows, tmp_path / "out", model=base, recipe=FAST)
    tokenizer = caught[0].processing_class
    fit = load_fit(base)
    source = pq.read_table(Path(rows) / "train-00000.parquet").to_pylist()
    for prompt, row, one, measured in zip(
        sampled, caught[0].train_dataset, source, fit.measure(source), strict=True
    ):
        assert measured.prompt == len(prompt)
        if stage == "sft":
            learnt = [token for token in row["labels"] if token != -100]
            assert row["input_ids"] == prompt + learnt
            texts = {"completion": learnt}
        else:
            assert row["prompt_ids"] == prompt
            texts = {side: row[f"{side}_ids"] for side in ("chosen", "rejected")}
        for side, tokens in texts.items():
            assert tokenizer.decode(tokens) == one[side] + tokenizer.eos_token
            assert measured.texts[side] == len(tokens)


def test_a_check_needs_no_chat_template_for_plain_text(
    base: str, sft_rows: str, dpo_rows: str, tmp_path: Path
) -> None:
    for folder in (sft_rows, dpo_rows):
        facts = check(folder, load_fit(base))
        assert (facts["problems"], facts["rows"]) == ([], 16)
    rows: list[Any] = [
        {"prompt": "Answer: ", "completion": "12"},
        {"prompt": "Answer:", "completion": " "},
    ]
    odd = check(write_rows(tmp_path / "odd", "sft", rows), load_fit(base))
    assert [problem.partition("(")[0] for problem in odd["problems"]] == [
        "verifier_sft: 1 rows have an empty text to learn ",
    ]
    user, assistant = ([{"role": role, "content": "Hi"}] for role in ("user", "assistant"))
    chats = write_rows(tmp_path / "chats", "sft", [{"prompt": user, "completion": assistant}])
    for use in (lambda: check(chats, load_fit(base)), lambda: train(chats, tmp_path, base)):
        with pytest.raises(ExportError, match=r"rows are chats, .* plain = true"):
            use()


def train(rows: str, folder: Path, base: str) -> None:
    train_sft("verifier", rows, folder / "out", model=base, recipe=FAST)


def test_sft_and_dpo_learn_from_plain_text_on_the_embedded_model(
    sft_rows: str, dpo_rows: str, tmp_path: Path
) -> None:
    settings = Recipe(
        trainer={"per_device_train_batch_size": 2, "warmup_steps": 0},
        sft={"learning_rate": 2e-4},
        dpo={"learning_rate": 1e-4},
    )
    model = without_chat_template(tmp_path / "base")
    options: dict[str, Any] = {"model": model, "recipe": settings, "max_steps": 2}
    train_sft("verifier", sft_rows, tmp_path / "sft", **options)
    losses = logged(tmp_path / "sft")
    assert losses[-1] < losses[0]
    out = tmp_path / "dpo"
    train_dpo("verifier", dpo_rows, out, adapter=str(tmp_path / "sft"), **options)
    losses = logged(out)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-3)
    assert losses[-1] < losses[0]
    assert (out / "adapter_model.safetensors").exists()


def logged(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]
