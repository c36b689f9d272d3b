"""Training recipes: the TOML files in recipes/, and user files that override them.

    [trainer]                 # passed to TRL's SFTConfig and DPOConfig
    learning_rate = 5e-5
    [lora]                    # passed to PEFT's LoraConfig
    r = 32

`[sft]` and `[dpo]` apply to one stage only; `quantize = "4bit"` loads the base model in 4-bit
(needs a GPU and bitsandbytes); `dpo_first` and `baselines` are for `--role all`. Missing keys are
taken from recipes/malt.toml.

    >>> epochs(400), epochs(2_000), epochs(50_000)
    (10, 4, 1)
    >>> read_recipe("dpo-nll").arguments("dpo", 400)["loss_type"]
    ['sigmoid', 'sft']
    >>> Recipe().stages(("solver", "critic"))
    [('solver', 'sft'), ('critic', 'sft'), ('critic', 'dpo')]
"""

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from malt_data.errors import SpecError
from malt_data.schemas.model import Model
from malt_data.storage.documents import read_settings

Stage = Literal["sft", "dpo"]
STAGES: tuple[Stage, ...] = ("sft", "dpo")
MOST_EPOCHS = 10
"""On few rows (§A.9)."""
BASE = "malt"
"""The paper's recipe, which all others override."""


class Recipe(Model):
    """The content of a recipe or `--config` file; missing keys are those of the paper's recipe."""

    trainer: dict[str, Any] = {}
    sft: dict[str, Any] = {}
    dpo: dict[str, Any] = {}
    lora: dict[str, Any] = {}
    quantize: Literal["4bit"] | None = None
    dpo_first: bool = False
    """Also train the role that speaks first with DPO (§5.2), not only the others (§4.3)."""
    baselines: bool = True
    """With `--role all`, also train the baselines, see baselines.py."""

    def stages(self, roles: Sequence[str], only: Stage | None = None) -> list[tuple[str, Stage]]:
        """Return the (role, stage) of the recipe in order.

        SFT for all roles, DPO for those that answer to another: all but the first (§4.3). roles: in
        the order in which they speak. only: leave out the other stage.
        """
        return [
            (role, stage)
            for index, role in enumerate(roles)
            for stage in STAGES
            if (stage == "sft" or index or self.dpo_first) and only in (None, stage)
        ]

    def arguments(self, stage: Stage, rows: int) -> dict[str, Any]:
        """Return the arguments of the stage's TRL config for `rows` training rows."""
        settings = _base().overridden_by(self)
        of_stage = settings.sft if stage == "sft" else settings.dpo
        return {"num_train_epochs": epochs(rows), **settings.trainer, **of_stage}

    def lora_arguments(self) -> dict[str, Any]:
        """Return the arguments of PEFT's LoraConfig."""
        return _base().overridden_by(self).lora

    @property
    def seed(self) -> int:
        """The seed of weights and data order."""
        return int(self.arguments("sft", 1)["seed"])

    def seeded(self, seed: int | None) -> "Recipe":
        """Return these settings with another seed in every stage; None leaves them unchanged."""
        if seed is None or all(self.arguments(stage, 1)["seed"] == seed for stage in STAGES):
            return self  # unchanged, because finished runs are recognised by their settings
        return self.overridden_by(Recipe(trainer={"seed": seed}))

    def overridden_by(self, other: "Recipe") -> "Recipe":
        """Return these settings overridden by `other`, key by key.

        A key in the `[trainer]` of `other` applies to both stages, so it also overrides `[sft]` and
        `[dpo]` here.
        """
        values = self.model_dump(exclude_unset=True)
        for stage in STAGES:
            kept = {k: v for k, v in values.get(stage, {}).items() if k not in other.trainer}
            values[stage] = kept
        for key, value in other.model_dump(exclude_unset=True).items():
            values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
        return Recipe(**values)


def recipes() -> list[str]:
    """Return the names of the built-in recipes, the paper's first."""
    folder = resources.files(__package__).joinpath("recipes")
    names = sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".toml"))
    return [BASE, *(name for name in names if name != BASE)]


def read_recipe(name: str = BASE, overrides: str | Path | None = None) -> Recipe:
    """Return a recipe (a name or a TOML file), overridden by the TOML file `overrides`.

    Raises SpecError if either is invalid.
    """
    if name == BASE:
        recipe = Recipe()
    elif name in recipes():
        recipe = _read_builtin(name)
    elif name.endswith(".toml") or Path(name).is_file():
        recipe = _read(Path(name))
    else:
        raise SpecError(
            f"Unknown recipe {name!r}. Choose from {', '.join(recipes())}, or pass a TOML file."
        )
    return recipe if overrides is None else recipe.overridden_by(_read(Path(overrides)))


def epochs(rows: int) -> int:
    """Return 1 to 10 epochs (§A.9), so that training sees about 8,000 rows in total."""
    return max(1, min(MOST_EPOCHS, round(8_000 / max(rows, 1))))


@cache
def _base() -> Recipe:
    return _read_builtin(BASE)


def _read_builtin(name: str) -> Recipe:
    file = resources.files(__package__).joinpath("recipes", f"{name}.toml")
    return Recipe.model_validate(tomllib.loads(file.read_text("utf-8")))


def _read(path: Path) -> Recipe:
    return read_settings(path, "recipe", Recipe)
