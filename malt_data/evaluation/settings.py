"""Find settings by name: `ma+mv` is the table `ma` of settings.toml with a vote of three.

>>> setting = find_settings(["ma+mv"])[0]
>>> setting.votes, setting.turns
(3, ('generator', 'verifier', 'refiner'))
"""

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from malt_data.errors import EvalError, SpecError
from malt_data.schemas.model import Field, Model
from malt_data.schemas.roles import ROLES, Role
from malt_data.schemas.team import AdapterSet, AdapterSets
from malt_data.storage.documents import read_settings_file

VOTES = 3
"""Passes of a `+mv` setting (MALT §4.1)."""


class Setting(Model):
    """How to answer a question; see settings.toml."""

    name: str = ""
    turns: tuple[Role, ...] = Field(min_length=1)
    adapters: Literal["none"] | AdapterSet = "none"
    base: tuple[Role, ...] = ()
    agents: int = Field(1, ge=1, le=16)
    rounds: int = Field(1, ge=1, le=16)
    votes: int = Field(1, ge=1, le=99)

    @model_validator(mode="after")
    def _check(self) -> "Setting":
        if list(self.turns) != [role for role in ROLES if role in self.turns]:
            raise ValueError(f"turns must be some of {', '.join(ROLES)}, in this order")
        if self.turns[0] != ROLES[0]:
            raise ValueError("the first turn must be the generator's")
        if self.agents > 1 and (len(self.turns), self.votes) != (1, 1):
            raise ValueError('a debate (agents > 1) needs turns = ["generator"] and no votes')
        if self.rounds > 1 and self.agents == 1:
            raise ValueError("rounds need agents > 1")
        return self

    @property
    def completions(self) -> int:
        """Completions per question."""
        return self.votes * self.agents * self.rounds * len(self.turns)

    def adapter(self, role: str, team: AdapterSets) -> str | None:
        """Return the adapter of `role` in this setting; None for the base model."""
        if self.adapters == "none" or role in self.base:
            return None
        return team.get(self.adapters, {}).get(role)


def find_settings(names: list[str], path: str | Path | None = None) -> list[Setting]:
    """Return the settings called `names`, from settings.toml or the TOML file at `path`.

    Raises SpecError for an unknown name or an invalid setting.
    """
    tables = tomllib.loads(
        resources.files(__package__).joinpath("settings.toml").read_text("utf-8")
    )
    if path is not None:
        tables |= read_settings_file(path, "settings file")
    if not names:
        raise SpecError(f"No setting was given. Choose one or more of {', '.join(tables)}.")
    return [_setting(name, tables) for name in dict.fromkeys(names)]


def _setting(name: str, tables: dict[str, Any]) -> Setting:
    plain = name.removesuffix("+mv")
    if plain not in tables:
        names = ", ".join(tables)
        raise SpecError(f"Unknown setting {plain!r}. Choose from (most also with +mv): {names}.")
    if not isinstance(tables[plain], dict):
        raise SpecError(f"Setting {plain} is not a table: write [{plain}] and its keys below it.")
    votes = {"votes": VOTES} if name.endswith("+mv") else {}
    try:
        return Setting.model_validate({**tables[plain], **votes, "name": name})
    except SpecError as error:
        raise SpecError(f"Setting {name}: {error}") from None


def require_adapters(settings: Sequence[Setting], team: AdapterSets) -> None:
    """Raise EvalError if a setting needs adapters that `team` lacks.

    In "team" and "sft" some roles may use the base model; in the baselines all need an adapter.
    """
    for setting in settings:
        name = setting.adapters
        adapters = team.get(name, {})
        required = [role for role in setting.turns if role not in setting.base]
        missing = [role for role in required if role not in adapters]
        if name == "none" or not missing or (adapters and name in ("team", "sft")):
            continue
        if not any(team.values()):
            raise EvalError(
                f"Setting {setting.name} needs the {name} adapters of a team: pass --team team.toml"
            )
        first = "malt-data export --role generator --format dpo, then " if name == "lone" else ""
        raise EvalError(
            f"Setting {setting.name} needs the {name} adapter of {', '.join(missing)}, which is "
            f"not in the team file. Train it: {first}malt-data train --role all with the team's "
            "--dataset and --out."
        )
