"""SFT of one role on its positive samples (MALT §4.3, Algorithm 1), LoRA on the base model.

    python -m malt_data train --role generator --dataset me/trees --out generator
    accelerate launch -m malt_data train --role verifier --dataset forest --out verifier
    python -m malt_data train --role verifier --adapter verifier --out verifier-2

With `--adapter` training goes on from that adapter instead of a fresh one: further steps on the
same data, or a second round on new data. Its shape stays what it is; `[lora]` shapes fresh ones.

The loss is taken on the completion's tokens only. The prompt is, token for token, the one that
`build` sent: the same messages under the same chat template.
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
    """Train a role's SFT adapter into `out`; return its record. A finished one is left as it is.

    adapter: a folder or a Hub repo to start from; None: a fresh LoRA on the base model. role:
    SHARED is one adapter on the rows of all roles together, which the trainer shuffles.
    options: model, settings, max_steps, other_model, note, as for `prepare`. Raises TrainError,
    SpecError or HubError before any step where data, model, settings or disk cannot work.
    """
    task = prepare(role, "sft", dataset, out, adapter=adapter, **options)
    if record := task.finished():
        return record
    task, base, tokenizer = task.load()
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    policy = base if adapter is None else load_adapter(base, adapter)
    lora = make_lora(task.settings) if adapter is None else None
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
