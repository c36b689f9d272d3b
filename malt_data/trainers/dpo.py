"""DPO of one role on its pairs (MALT §4.3), from its SFT adapter, which is also the reference.

    python -m malt_data train --stage dpo --role verifier --dataset me/trees \\
        --adapter verifier_sft --out verifier_dpo

The base model is loaded once. TRL keeps a frozen copy of the adapter as it was (`ref`) beside the
one it trains and switches between them, so the reference costs an adapter, not a model.
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

    options: model, settings, max_steps, other_model, note, as for `prepare`. Raises TrainError,
    SpecError or HubError before any step where data, model, adapter, settings or disk cannot work.
    """
    task = prepare(role, "dpo", dataset, out, adapter=adapter, **options)
    if record := task.finished():
        return record
    task, base, tokenizer = task.load()
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    policy = load_adapter(base, adapter)
    arguments = task.config(DPOConfig)

    def make() -> Any:
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
        return task.train(make, on_progress)
    except ValueError as error:
        if not str(error).startswith("Unknown loss type"):  # TRL looks at it only in the first step
            raise
        raise SpecError(f"[dpo] {one_line(error)}") from None


def require_reference(model: Any) -> None:
    """Raise TrainError unless a frozen copy of the adapter, equal to it, is the reference."""
    import torch

    weights = dict(model.named_parameters())
    pairs = [(p, weights.get(n.replace(".default.", ".ref."))) for n, p in weights.items()
             if ".default." in n]  # fmt: skip
    if not pairs or any(
        ref is None or ref.requires_grad or not torch.equal(mine.detach(), ref.detach())
        for mine, ref in pairs
    ):
        raise TrainError("The reference policy is not the adapter that training starts from.")
