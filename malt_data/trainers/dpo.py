"""DPO of one role on its pairs (MALT §4.3), from its SFT adapter, which is also the reference.

    python -m malt_data.trainers.dpo --role verifier --dataset me/trees \\
        --adapter verifier_sft --out verifier_dpo

The base model is loaded once. TRL keeps a frozen copy of the adapter as it was (`ref`) beside the
one it trains and switches between them, so the reference costs an adapter, not a model.
"""

import sys
from pathlib import Path
from typing import Any

from malt_data.errors import TrainError, one_line
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
    plan_of,
    run,
    save,
)


def train_dpo(
    role: str,
    dataset: str,
    out: Path,
    *,
    adapter: str,
    model: str | None = None,
    settings: Settings | None = None,
    max_steps: int | None = None,
    other_model: bool = False,
    watch: Watch = lambda done, total: None,
) -> dict[str, Any]:
    """Train a role's DPO adapter into `out`, starting from `adapter`; return its record.

    Raises TrainError, SpecError or HubError before any step where data, model, adapter, settings
    or disk cannot work.
    """
    chosen = settings or Settings()
    with library_noise():
        data = load(dataset, role, "dpo")
    name = base_of(data, model, other_model)
    plan = plan_of(data, name, chosen, stage="dpo", max_steps=max_steps, adapter=adapter)
    if record := finished(out, plan):
        return record
    with library_noise():
        base, tokenizer = load_base(name, chosen.quantize)
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    policy = load_adapter(base, adapter)
    arguments = make_config(DPOConfig, chosen, "dpo", data, out, max_steps)
    with library_noise():
        trainer = DPOTrainer(
            policy,
            args=arguments,
            train_dataset=data.train,
            eval_dataset=data.validation,
            processing_class=tokenizer,
        )
        require_reference(trainer.model)
        begin(out, plan, data)
        run(trainer, out, watch)
    report = data.report.model_dump(mode="json") if data.report else None
    return save(trainer, out, {**plan, "role": role, "report": report})


def load_adapter(base: Any, adapter: str) -> Any:
    """Return `base` with a trainable adapter (a folder or a Hub repo) on it."""
    import peft

    try:
        return peft.PeftModel.from_pretrained(base, adapter, is_trainable=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise TrainError(
            f"The adapter {adapter} could not be loaded on this base model: {one_line(error)}. "
            "Check its name, your login (hf auth login), and that it was trained on this model."
        ) from None


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


if __name__ == "__main__":
    from malt_data.cli import main

    main(["train", "--stage", "dpo", *sys.argv[1:]])
