"""The recipe on the embedded model, for real: what SFT and DPO change on held-out rows."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic import make_forest

from malt_data.engines.embedded import EMBEDDED, resolve
from malt_data.exporters.export import export
from malt_data.exporters.selection import Selection
from malt_data.forests.forest import Forest
from malt_data.schemas.exports import config_named
from malt_data.trainers.dpo import train_dpo
from malt_data.trainers.recipe import Recipe
from malt_data.trainers.sft import train_sft

SETTINGS = Recipe(
    trainer={
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 16,  # all at once: TRL's mean is one over batches
        "max_length": 256,
        "eval_on_start": True,
        "eval_strategy": "steps",
        "eval_steps": 5,
    },
    sft={"learning_rate": 2e-4},
    dpo={"learning_rate": 1e-4},
)


SHORT = {"numeric": {"refiner": {"user": "{question}\n{initial_answer}\n{verification}"}}}
"""Prompts of few tokens, as the steps take longest here."""


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    folder = tmp_path_factory.mktemp("forest") / "f"
    forest = make_forest(folder, trees=16, n=(2, 3, 2), model=EMBEDDED, prompts=SHORT)
    for name in ("refiner_sft", "refiner_dpo"):  # a refiner's text decides its label
        chosen = Selection(validation=0.3, max_per_question=1, keep_truncated=True)
        export(forest, config_named(name), chosen)
    return forest


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, forest: Forest) -> Path:
    out = tmp_path_factory.mktemp("sft") / "refiner"
    train_sft("refiner", str(forest.folder), out, recipe=SETTINGS, max_steps=5)
    return out


def held_out(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.mark.model
def test_sft_lowers_the_loss_on_held_out_completions(sft: Path) -> None:
    losses = held_out(sft, "eval_loss")
    assert losses[-1] < 0.8 * losses[0], losses


@pytest.mark.model
def test_dpo_raises_margin_and_accuracy_on_held_out_pairs(
    forest: Forest, sft: Path, tmp_path: Path
) -> None:
    out = tmp_path / "dpo"
    folder = str(forest.folder)
    train_dpo("refiner", folder, out, adapter=str(sft), recipe=SETTINGS, max_steps=5)
    margins = held_out(out, "eval_rewards/margins")
    assert margins[0] == pytest.approx(0, abs=1e-3)
    assert margins[-1] > 0.05, margins
    accuracies = held_out(out, "eval_rewards/accuracies")
    assert accuracies[-1] > max(0.5, accuracies[0]), accuracies


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")  # vLLM's own, of many kinds
def test_vllm_loads_the_adapter(
    forest: Forest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next-token distribution of vLLM with the adapter is that of the trained model."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; else most of the memory
    import peft
    import transformers
    import vllm
    from vllm.lora.request import LoRARequest

    settings = SETTINGS.model_copy(
        update={
            "trainer": {**SETTINGS.trainer, "eval_strategy": "no"},
            "sft": {"learning_rate": 2e-3},
        }
    )
    out = tmp_path / "v"
    train_sft("refiner", str(forest.folder), out, recipe=settings, max_steps=2)
    source = resolve(EMBEDDED, print)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source)
    messages = [{"role": "user", "content": "Question 3 of 0?"}]
    prompt: list[int] = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    base = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        bare = base(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        model = peft.PeftModel.from_pretrained(base, str(out))
        expected = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    engine: Any = vllm.LLM(
        model=source, dtype="float32", enforce_eager=True, enable_lora=True, max_lora_rank=16,
        max_model_len=512, gpu_memory_utilization=0.2,
    )  # fmt: skip
    found = engine.generate(
        {"prompt_token_ids": prompt},
        vllm.SamplingParams(max_tokens=1, temperature=0, logprobs=10),
        lora_request=LoRARequest("v", 1, str(out)),
        use_tqdm=False,
    )
    top = {token: entry.logprob for token, entry in found[0].outputs[0].logprobs[0].items()}
    assert len(top) >= 10
    for token, logprob in top.items():
        assert logprob == pytest.approx(float(expected[token]), abs=2e-3)
    assert max(abs(float(bare[token]) - logprob) for token, logprob in top.items()) > 0.1
