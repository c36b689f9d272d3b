"""SFT of one role on its positive samples (MALT §4.3, Algorithm 1), LoRA on the base model.

    python -m malt_data.trainers.sft --role generator --dataset me/trees --out generator
    accelerate launch -m malt_data.trainers.sft --role verifier --dataset forest --out verifier

The loss is taken on the completion's tokens only. The prompt is, token for token, the one that
`build` sent: the same messages under the same chat template.
"""

import sys
from pathlib import Path
from typing import Any

from malt_data.trainers.data import load
from malt_data.trainers.recipe import Settings
from malt_data.trainers.training import (
    Watch,
    base_of,
    begin,
    finished,
    library_noise,
    load_base,
    make_config,
    make_lora,
    plan_of,
    run,
    save,
)


def train_sft(
    role: str,
    dataset: str,
    out: Path,
    *,
    model: str | None = None,
    settings: Settings | None = None,
    max_steps: int | None = None,
    other_model: bool = False,
    watch: Watch = lambda done, total: None,
) -> dict[str, Any]:
    """Train a role's SFT adapter into `out`; return its record. A finished one is left as it is.

    Raises TrainError, SpecError or HubError before any step where data, model, settings or disk
    cannot work.
    """
    chosen = settings or Settings()
    with library_noise():
        data = load(dataset, role, "sft")
    name = base_of(data, model, other_model)
    plan = plan_of(data, name, chosen, stage="sft", max_steps=max_steps)
    if record := finished(out, plan):
        return record
    with library_noise():
        base, tokenizer = load_base(name, chosen.quantize)
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    arguments = make_config(SFTConfig, chosen, "sft", data, out, max_steps)
    with library_noise():
        trainer = SFTTrainer(
            base,
            args=arguments,
            train_dataset=data.train,
            eval_dataset=data.validation,
            processing_class=tokenizer,
            peft_config=make_lora(chosen),
        )
        begin(out, plan, data)
        run(trainer, out, watch)
    return save(trainer, out, {**plan, "role": role, "report": _report(data)})


def _report(data: Any) -> dict[str, Any] | None:
    return data.report.model_dump(mode="json") if data.report else None


if __name__ == "__main__":
    from malt_data.cli import main

    main(["train", "--stage", "sft", *sys.argv[1:]])
