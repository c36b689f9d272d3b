"""Settings by name: `ma+mv` is the table `ma` of settings.toml with a vote of three.

>>> found = find(["ma+mv"])[0]
>>> found.votes, found.turns
(3, ('generator', 'verifier', 'refiner'))
"""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from malt_data.errors import SpecError
from malt_data.schemas.ids import ROLES
from malt_data.schemas.manifest import sentence

VOTES = 3
"""Passes of a `+mv` setting (MALT §4.1)."""

Role = Literal["generator", "verifier", "refiner"]


class Setting(BaseModel):
    """How a question is answered; see settings.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    turns: tuple[Role, ...] = Field(min_length=1)
    adapters: Literal["none", "sft", "team"] = "none"
    base: tuple[Role, ...] = ()
    agents: int = Field(1, ge=1, le=16)
    rounds: int = Field(1, ge=1, le=16)
    votes: int = Field(1, ge=1, le=99)

    @property
    def completions(self) -> int:
        """Completions a question."""
        return self.votes * self.agents * self.rounds * len(self.turns)

    def adapter(self, role: str, team: dict[str, dict[str, str]]) -> str | None:
        """Return the adapter that `role` uses, from `{"sft": {role: …}, "team": {role: …}}`."""
        if self.adapters == "none" or role in self.base:
            return None
        return team[self.adapters].get(role)


def find(names: list[str], path: Path | None = None) -> list[Setting]:
    """Return the settings called `names`; those of the TOML file at `path` are known too.

    Raises SpecError for an unknown name or a table that cannot be.
    """
    tables = tomllib.loads(
        resources.files(__package__).joinpath("settings.toml").read_text("utf-8")
    )
    if path is not None:
        try:
            tables |= tomllib.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise SpecError(f"{path} is no valid TOML: {error}") from None
    return [_setting(name, tables) for name in dict.fromkeys(names)]


def _setting(name: str, tables: dict[str, Any]) -> Setting:
    plain = name.removesuffix("+mv")
    if plain not in tables:
        known = ", ".join(tables)
        raise SpecError(f"There is no setting {plain!r}. Known, each also with +mv: {known}.")
    votes = {"votes": VOTES} if name.endswith("+mv") else {}
    try:
        found = Setting.model_validate({"name": name, **tables[plain], **votes})
    except ValidationError as error:
        raise SpecError(f"Setting {plain}: {sentence(error)}") from None
    if list(found.turns) != [role for role in ROLES if role in found.turns]:
        raise SpecError(f"Setting {plain}: turns are some of {', '.join(ROLES)}, in this order.")
    if found.turns[0] != ROLES[0]:
        raise SpecError(f"Setting {plain}: the first turn is the generator's.")
    return found
