"""The paper's recipe in one place, and how a TOML file changes it.

    [trainer]                 # straight to TRL's SFTConfig and DPOConfig
    learning_rate = 5e-5
    [lora]                    # straight to PEFT's LoraConfig
    r = 32

`[sft]` and `[dpo]` hold what only one of the stages is to have; `quantize = "4bit"` loads the base
model in four bits (needs a GPU and bitsandbytes); `generator_dpo = true` is for `--role all`.

    >>> epochs(400), epochs(2_000), epochs(50_000)
    (10, 4, 1)
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from malt_data.documents import read_toml
from malt_data.errors import SpecError
from malt_data.schemas.ids import ROLES
from malt_data.schemas.manifest import sentence

Stage = Literal["sft", "dpo"]
STAGES: tuple[Stage, ...] = ("sft", "dpo")

_BOTH: dict[str, Any] = {
    "per_device_train_batch_size": 8,  # §A.9
    "per_device_eval_batch_size": 8,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,  # a share of all steps
    "logging_steps": 1,
    "save_steps": 50,
    "save_total_limit": 2,
    "report_to": [],  # "trackio", "wandb", …
    "disable_tqdm": True,  # a bar of our own
    "seed": 0,
}
DEFAULTS: dict[Stage, dict[str, Any]] = {
    # §A.9 has learning rates only as multipliers (0.1) of a service's undisclosed own ones.
    "sft": {**_BOTH, "learning_rate": 1e-4, "completion_only_loss": True},
    "dpo": {**_BOTH, "learning_rate": 1e-5, "beta": 0.2},  # β: §A.9
}
LORA: dict[str, Any] = {  # §A.9: LoRA; its shape is not said
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
    "task_type": "CAUSAL_LM",
}


class Settings(BaseModel):
    """What a `--config` file may hold; empty tables are the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trainer: dict[str, Any] = {}
    sft: dict[str, Any] = {}
    dpo: dict[str, Any] = {}
    lora: dict[str, Any] = {}
    quantize: Literal["4bit"] | None = None
    generator_dpo: bool = False
    """DPO for the generator too (§5.2), not only for verifier and refiner (§4.3)."""

    def stages(self) -> list[tuple[str, Stage]]:
        """Return the whole recipe in order: SFT for all roles (§4.3), DPO where it is asked for."""
        learners = ROLES if self.generator_dpo else ROLES[1:]
        return [
            (role, stage)
            for role in ROLES
            for stage in STAGES
            if stage == "sft" or role in learners
        ]

    def arguments(self, stage: Stage, rows: int) -> dict[str, Any]:
        """Return what the stage's TRL config gets, over `rows` training rows."""
        mine = self.sft if stage == "sft" else self.dpo
        defaults = {**DEFAULTS[stage], "num_train_epochs": epochs(rows)}
        return {**defaults, **self.trainer, **mine}


def read_settings(path: Path | None) -> Settings:
    """Return the settings in a TOML file; raise SpecError that names what is wrong in it."""
    if path is None:
        return Settings()
    try:
        return Settings.model_validate(read_toml(path))
    except ValidationError as error:
        raise SpecError(f"{path}: {sentence(error)}") from None
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} is no valid TOML: {error}") from None


def epochs(rows: int) -> int:
    """Return 1 to 10 passes, fewer over larger data (§A.9); about 8,000 rows seen in all."""
    return max(1, min(10, round(8_000 / max(rows, 1))))
