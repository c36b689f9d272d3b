"""Train a role with DPO on its pairs (MALT §4.3), with its SFT adapter as start and reference.

    python -m malt_data train --stage dpo --role verifier --dataset me/trees \\
        --adapter verifier_sft --out verifier_dpo

The base model is loaded once. TRL keeps a frozen copy of the initial adapter (`ref`) next to the
one it trains and switches between them, so the reference only costs the memory of an adapter.
"""

from pathlib import Path
from typing import Any

from malt_data.errors import SpecError, TrainError, one_line
from malt_data.trainers.base import load_adapter
from malt_data.trainers.training import OnProgress, prepare


def train_dpo(
    role: str,
    dataset: str,
    out: str | Path,
    *,
    adapter: str,
    on_progress: OnProgress = lambda done, total: None,
    **options: Any,
) -> dict[str, Any]:
    """Train a role's DPO adapter into `out`, starting from `adapter`; return its record.

    options: model, recipe, max_steps, other_model and note of `prepare`. Raises TrainError,
    SpecError or HubError before the first step if data, model, adapter, recipe or disk space are
    unsuitable.
    """
    task = prepare(role, "dpo", dataset, out, adapter=adapter, **options)
    if record := task.finished():
        return record
    task, base, tokenizer = task.load()
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    policy = load_adapter(base, adapter)
    arguments = task.config(DPOConfig)

    def make_trainer() -> Any:
        trainer = DPOTrainer(
            policy,
            args=arguments,
            train_dataset=task.data.train,
            eval_dataset=task.data.validation,
            processing_class=tokenizer,
        )
        require_reference(trainer.model)
        return trainer

    try:
        return task.train(make_trainer, on_progress)
    except ValueError as error:
        if not str(error).startswith("Unknown loss type"):  # TRL only checks it in the first step
            raise
        raise SpecError(f"[dpo] {one_line(error)}") from None


def require_reference(model: Any) -> None:
    """Raise TrainError unless the reference is a frozen copy of the adapter with equal weights."""
    import torch

    weights = dict(model.named_parameters())
    pairs = [(p, weights.get(n.replace(".default.", ".ref."))) for n, p in weights.items()
             if ".default." in n]  # fmt: skip
    if not pairs or any(
        ref is None or ref.requires_grad or not torch.equal(weight.detach(), ref.detach())
        for weight, ref in pairs
    ):
        raise TrainError("The reference policy is not the adapter that training starts from.")
