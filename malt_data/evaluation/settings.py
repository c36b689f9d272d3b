"""Settings by name: `ma+mv` is the table `ma` of settings.toml with a vote of three.

>>> found = find_settings(["ma+mv"])[0]
>>> found.votes, found.turns
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
from malt_data.storage.documents import read_toml

VOTES = 3
"""Passes of a `+mv` setting (MALT §4.1)."""


class Setting(Model):
    """How a question is answered; see settings.toml."""

    name: str = ""
    turns: tuple[Role, ...] = Field(min_length=1)
    adapters: Literal["none"] | AdapterSet = "none"
    base: tuple[Role, ...] = ()
    agents: int = Field(1, ge=1, le=16)
    rounds: int = Field(1, ge=1, le=16)
    votes: int = Field(1, ge=1, le=99)

    @model_validator(mode="after")
    def _playable(self) -> "Setting":
        if list(self.turns) != [role for role in ROLES if role in self.turns]:
            raise ValueError(f"turns are some of {', '.join(ROLES)}, in this order")
        if self.turns[0] != ROLES[0]:
            raise ValueError("the first turn is the generator's")
        if self.agents > 1 and (len(self.turns), self.votes) != (1, 1):
            raise ValueError("in a debate only generators speak, and the agents are the vote")
        if self.rounds > 1 and self.agents == 1:
            raise ValueError("rounds need agents = 2 or more")
        return self

    @property
    def completions(self) -> int:
        """Completions a question."""
        return self.votes * self.agents * self.rounds * len(self.turns)

    def adapter(self, role: str, team: AdapterSets) -> str | None:
        """Return the adapter that `role` uses, from `{"sft": {role: …}, "team": {role: …}}`."""
        if self.adapters == "none" or role in self.base:
            return None
        return team.get(self.adapters, {}).get(role)


def find_settings(names: list[str], path: str | Path | None = None) -> list[Setting]:
    """Return the settings called `names`; those of the TOML file at `path` are known too.

    Raises SpecError for an unknown name or a table that cannot be.
    """
    tables = tomllib.loads(
        resources.files(__package__).joinpath("settings.toml").read_text("utf-8")
    )
    if path is not None:
        try:
            tables |= read_toml(Path(path))
        except (OSError, ValueError) as error:
            raise SpecError(f"{path} is not valid TOML: {error}") from None
    if not names:
        raise SpecError(f"Name a setting: one or more of {', '.join(tables)}.")
    return [_setting(name, tables) for name in dict.fromkeys(names)]


def _setting(name: str, tables: dict[str, Any]) -> Setting:
    plain = name.removesuffix("+mv")
    if plain not in tables:
        known = ", ".join(tables)
        raise SpecError(f"There is no setting {plain!r}. Known, most also with +mv: {known}.")
    if not isinstance(tables[plain], dict):
        raise SpecError(f"The setting {plain} is no table: write [{plain}] and its keys below it.")
    votes = {"votes": VOTES} if name.endswith("+mv") else {}
    try:
        return Setting.model_validate({**tables[plain], **votes, "name": name})
    except SpecError as error:
        raise SpecError(f"Setting {name}: {error}") from None


def require_adapters(settings: Sequence[Setting], team: AdapterSets) -> None:
    """Raise EvalError where a setting needs adapters that `team` lacks.

    In "team" and "sft" some of the roles may be the base model, in a baseline none.
    """
    for setting in settings:
        name = setting.adapters
        found = team.get(name, {})
        speaking = [role for role in setting.turns if role not in setting.base]
        missing = [role for role in speaking if role not in found]
        if name == "none" or not missing or (found and name in ("team", "sft")):
            continue
        if not any(team.values()):
            raise EvalError(
                f"The setting {setting.name} needs the {name} adapters of a team: --team team.toml"
            )
        first = "malt-data export --role generator --format dpo, then " if name == "lone" else ""
        raise EvalError(
            f"The setting {setting.name} needs the {name} adapter of {', '.join(missing)}, which "
            f"the team file does not name. Train it: {first}malt-data train --role all with the "
            "team's --dataset and --out."
        )
