"""Recipes: TOML files that come along, the paper's first, and how a file of one's own changes them.

    [trainer]                 # straight to TRL's SFTConfig and DPOConfig
    learning_rate = 5e-5
    [lora]                    # straight to PEFT's LoraConfig
    r = 32

`[sft]` and `[dpo]` hold what only one of the stages is to have; `quantize = "4bit"` loads the base
model in four bits (needs a GPU and bitsandbytes); `generator_dpo` and `baselines` are for
`--role all`. What no file names is as in recipes/malt.toml.

    >>> epochs(400), epochs(2_000), epochs(50_000)
    (10, 4, 1)
    >>> read_settings(None, "dpo-nll").arguments("dpo", 400)["loss_type"]
    ['sigmoid', 'sft']
"""

import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from malt_data.errors import SpecError
from malt_data.schemas.model import Model
from malt_data.schemas.roles import ROLES
from malt_data.storage.documents import read_toml

Stage = Literal["sft", "dpo"]
STAGES: tuple[Stage, ...] = ("sft", "dpo")
DPO_ROLES = ("verifier", "refiner")
"""Those that the paper trains by DPO too (§4.3)."""
BASE = "malt"
"""The paper's recipe, which every other one is read on top of."""


class Settings(Model):
    """What a recipe or a `--config` file may hold; empty tables are the paper's recipe."""

    trainer: dict[str, Any] = {}
    sft: dict[str, Any] = {}
    dpo: dict[str, Any] = {}
    lora: dict[str, Any] = {}
    quantize: Literal["4bit"] | None = None
    generator_dpo: bool = False
    """DPO for the generator too (§5.2), not only for verifier and refiner (§4.3)."""
    baselines: bool = True
    """Train the baselines of `--role all` too, see baselines.py."""

    def stages(self, only: Stage | None = None) -> list[tuple[str, Stage]]:
        """Return the whole recipe in order: SFT for all roles (§4.3), DPO where it is asked for.

        only: one stage of it.
        """
        return [
            (role, stage)
            for role in ROLES
            for stage in STAGES
            if (stage == "sft" or role in DPO_ROLES or self.generator_dpo) and only in (None, stage)
        ]

    def arguments(self, stage: Stage, rows: int) -> dict[str, Any]:
        """Return what the stage's TRL config gets, over `rows` training rows."""
        every = _base().under(self)
        mine = every.sft if stage == "sft" else every.dpo
        return {"num_train_epochs": epochs(rows), **every.trainer, **mine}

    def lora_arguments(self) -> dict[str, Any]:
        """Return what PEFT's LoraConfig gets."""
        return _base().under(self).lora

    @property
    def seed(self) -> int:
        """The seed of weights and data order."""
        return int(self.arguments("sft", 1)["seed"])

    def seeded(self, seed: int | None) -> "Settings":
        """Return these settings with another seed in every stage; None: as they are."""
        if seed is None or all(self.arguments(stage, 1)["seed"] == seed for stage in STAGES):
            return self  # equal settings stay equal: a finished training is recognized by them
        return self.under(Settings(trainer={"seed": seed}))

    def under(self, other: "Settings") -> "Settings":
        """Return these settings overridden by `other`, key by key.

        A key of the other's `[trainer]` counts for both stages, so it beats `[sft]` and `[dpo]`
        here.
        """
        mine = self.model_dump(exclude_unset=True)
        theirs = other.model_dump(exclude_unset=True)
        for stage in STAGES:
            kept = {k: v for k, v in mine.get(stage, {}).items() if k not in other.trainer}
            mine[stage] = kept
        for key, value in theirs.items():
            mine[key] = {**mine.get(key, {}), **value} if isinstance(value, dict) else value
        return Settings(**mine)


def recipes() -> list[str]:
    """Return the names of the recipes that come along, the paper's first."""
    folder = resources.files(__package__).joinpath("recipes")
    names = sorted(Path(one.name).stem for one in folder.iterdir() if one.name.endswith(".toml"))
    return [BASE, *(name for name in names if name != BASE)]


def read_settings(config: str | Path | None, recipe: str = BASE) -> Settings:
    """Return a recipe (a name, or a TOML file) with the keys of the file `config` on top.

    Raises SpecError that names what is wrong in either.
    """
    if recipe == BASE:
        chosen = Settings()
    elif recipe in recipes():
        chosen = _shipped(recipe)
    elif recipe.endswith(".toml") or Path(recipe).is_file():
        chosen = _read(Path(recipe))
    else:
        raise SpecError(
            f"There is no recipe {recipe!r}. Known: {', '.join(recipes())}; or name a TOML file."
        )
    return chosen if config is None else chosen.under(_read(Path(config)))


def epochs(rows: int) -> int:
    """Return 1 to 10 passes, fewer over larger data (§A.9); about 8,000 rows seen in all."""
    return max(1, min(10, round(8_000 / max(rows, 1))))


@cache
def _base() -> Settings:
    return _shipped(BASE)


def _shipped(name: str) -> Settings:
    file = resources.files(__package__).joinpath("recipes", f"{name}.toml")
    return Settings.model_validate(tomllib.loads(file.read_text("utf-8")))


def _read(path: Path) -> Settings:
    try:
        return Settings.model_validate(read_toml(path))
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} is not valid TOML: {error}") from None
