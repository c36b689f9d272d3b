"""A team's adapters and the base model in one engine: completions come from the right one."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import transformers
from evaluation.harness import write_questions
from lora import write_adapter
from synthetic import ROLES

from malt_data.engines.embedded import EMBEDDED, resolve
from malt_data.evaluation.evaluate import evaluate
from malt_data.evaluation.plan import plan_evaluation
from malt_data.evaluation.settings import find_settings
from malt_data.schemas.spec import EvalSpec


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("team")
    return {
        stage: {
            role: write_adapter(folder / f"{role}_{stage}", seed=10 * place + number)
            for number, role in enumerate(ROLES)
        }
        for place, stage in enumerate(("sft", "team"))
    }


VLLM = pytest.param("vllm", 1, marks=[pytest.mark.vllm, pytest.mark.filterwarnings("ignore")])


# Few tokens: random adapters make near ties, which other batches and kernels break in another way
# further on.
@pytest.mark.model
@pytest.mark.parametrize(("engine", "tokens"), [("transformers", 2), VLLM])
def test_every_completion_comes_from_its_adapter(
    engine: Any,
    tokens: int,
    team: dict[str, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; else most of the memory
    spec = EvalSpec(questions=str(write_questions(tmp_path / "q.jsonl")), split="train", limit=1,
                temperature=0, max_tokens=tokens, engine=engine, model=EMBEDDED)  # fmt: skip
    settings = find_settings(["ma", "star-ma", "malt", "malt-base-v"])
    report = evaluate(plan_evaluation(spec, settings, team, tmp_path / "out"))
    assert report["failed"] == {}
    rows = pl.read_parquet(tmp_path / "out" / "completions" / "*.parquet").to_dicts()
    assert len(rows) == 12
    assert {row["adapter"] for row in rows} == {None, *team["sft"].values(), *team["team"].values()}
    source = resolve(EMBEDDED, print)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    base = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    for row in rows:
        expected = greedy(base, tokenizer, row["adapter"], json.loads(row["messages"]), tokens)
        assert row["text"] == expected, row


def greedy(
    base: Any, tokenizer: Any, adapter: str | None, messages: list[dict[str, str]], tokens: int
) -> str:
    """Return what transformers and PEFT alone complete."""
    import peft

    model = base if adapter is None else peft.PeftModel.from_pretrained(base, adapter)
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    with torch.inference_mode():
        made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                              max_new_tokens=tokens, pad_token_id=0)  # fmt: skip
    if adapter is not None:
        model.unload()
    return str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
