"""Train a role with SFT on its positive samples (MALT §4.3, Algorithm 1), with LoRA.

    python -m malt_data train --role generator --dataset me/trees --out generator
    accelerate launch -m malt_data train --role verifier --dataset forest --out verifier
    python -m malt_data train --role verifier --adapter verifier --out verifier-2

With `--adapter`, training starts from that adapter instead of a new one: more steps on the same
data, or another round on new data. `[lora]` only configures new adapters.

The loss is computed on the completion tokens only. The prompt is, token for token, the one that
`build` sent: the same messages with the same chat template, or the same plain text.
"""

from pathlib import Path
from typing import Any

from malt_data.trainers.base import load_adapter, make_lora
from malt_data.trainers.training import OnProgress, prepare


def train_sft(
    role: str,
    dataset: str,
    out: str | Path,
    *,
    adapter: str | None = None,
    on_progress: OnProgress = lambda done, total: None,
    **options: Any,
) -> dict[str, Any]:
    """Train a role's SFT adapter into `out`; return its record. A finished run is not repeated.

    adapter: a folder or a Hub repo to start from; None: a new LoRA on the base model. role: SHARED
    trains one adapter on the rows of all roles, which the trainer shuffles. options: model,
    recipe, max_steps, other_model and note of `prepare`. Raises TrainError, SpecError or HubError
    before the first step if data, model, recipe or disk space are unsuitable.
    """
    task = prepare(role, "sft", dataset, out, adapter=adapter, **options)
    if record := task.finished():
        return record
    task, base, tokenizer = task.load()
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    policy = base if adapter is None else load_adapter(base, adapter)
    lora = make_lora(task.recipe) if adapter is None else None
    arguments = task.config(SFTConfig)
    return task.train(
        lambda: SFTTrainer(
            policy,
            args=arguments,
            train_dataset=task.data.train,
            eval_dataset=task.data.validation,
            processing_class=tokenizer,
            peft_config=lora,
        ),
        on_progress,
    )
