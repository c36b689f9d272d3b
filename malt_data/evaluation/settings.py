"""Find settings by name: `ma+mv` is the table `ma` of settings.toml with a vote of three.

A setting plays turns of a pipeline, which it names as `Pipeline.chain` does.

>>> setting = find_settings(["ma+mv"])[0]
>>> setting.votes, setting.turns
(3, ('generator', 'verifier', 'refiner'))
"""

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import model_validator

from malt_data.errors import EvalError, SpecError
from malt_data.prompts.templates import render
from malt_data.schemas.model import Field, Model
from malt_data.schemas.pipeline import Pipeline, Prompts, require_role, shipped
from malt_data.schemas.team import SETS, AdapterSets
from malt_data.storage.documents import read_settings_file

VOTES = 3
"""Passes of a `+mv` setting (MALT §4.1)."""


class Setting(Model):
    """How to answer a question; see settings.toml."""

    name: str = ""
    turns: tuple[str, ...] = Field(min_length=1)
    adapters: str = "none"
    base: tuple[str, ...] = ()
    agents: int = Field(1, ge=1, le=16)
    rounds: int = Field(1, ge=1, le=16)
    votes: int = Field(1, ge=1, le=99)

    @model_validator(mode="after")
    def _check(self) -> "Setting":
        if self.agents > 1 and (len(self.turns), self.votes) != (1, 1):
            raise ValueError("a debate (agents > 1) needs turns = 1 and no votes")
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


def find_settings(
    names: list[str], path: str | Path | None = None, pipeline: Pipeline | None = None
) -> list[Setting]:
    """Return the settings called `names`, from settings.toml or the TOML file at `path`.

    pipeline: whose turns they play; None: `malt`. Raises SpecError for an unknown name or an
    invalid setting, e.g. one with turns that the pipeline does not have.
    """
    tables = tomllib.loads(
        resources.files(__package__).joinpath("settings.toml").read_text("utf-8")
    )
    if path is not None:
        tables |= read_settings_file(path, "settings file")
    if not names:
        raise SpecError(f"No setting was given. Choose one or more of {', '.join(tables)}.")
    pipeline = shipped() if pipeline is None else pipeline
    return [_setting(name, tables, pipeline) for name in dict.fromkeys(names)]


def _setting(name: str, tables: dict[str, Any], pipeline: Pipeline) -> Setting:
    plain = name.removesuffix("+mv")
    if plain not in tables:
        names = ", ".join(tables)
        raise SpecError(f"Unknown setting {plain!r}. Choose from (most also with +mv): {names}.")
    if not isinstance(tables[plain], dict):
        raise SpecError(f"Setting {plain} is not a table: write [{plain}] and its keys below it.")
    values = {**tables[plain], "name": name}
    if name.endswith("+mv"):
        values["votes"] = VOTES
    try:
        values["turns"] = _turns(values.get("turns"), pipeline)
        setting = Setting.model_validate(values)
        pipeline.chain(setting.turns)
        for role in setting.base:
            require_role(role, pipeline.roles)
    except SpecError as error:
        raise SpecError(f"Setting {name}: {error}") from None
    return setting


def _turns(turns: Any, pipeline: Pipeline) -> Any:
    """Return the names of the first `turns` turns of a pipeline; None: of all; a list: itself."""
    names = [turn.template for turn in pipeline.turns]
    if turns is None:
        return names
    if type(turns) is not int:
        return turns
    if not 1 <= turns <= len(names):
        raise SpecError(
            f"turns = {turns}, but the pipeline has turns 1 to {len(names)}: {', '.join(names)}."
        )
    return names[:turns]


def require_playable(settings: Sequence[Setting], pipeline: Pipeline, prompts: Prompts) -> None:
    """Raise SpecError if a prompt shows a text that comes later, or if it comes first itself.

    The text of a role that the setting leaves out is empty instead (*MALT* §A.9).
    """
    for setting in settings:
        try:
            chain = pipeline.chain(setting.turns)
            for kind in prompts:
                for turn in range(len(chain.turns)):
                    render(prompts, chain, kind, "", None, [""] * turn)
        except SpecError as error:
            raise SpecError(f"Setting {setting.name}: {error}") from None


def require_adapters(settings: Sequence[Setting], pipeline: Pipeline, team: AdapterSets) -> None:
    """Raise EvalError if a setting needs adapters that `team` lacks.

    In "team" and "sft" some roles may use the base model; in the baselines all need an adapter.
    """
    for setting in settings:
        name = setting.adapters
        adapters = team.get(name, {})
        roles = pipeline.chain(setting.turns).roles
        required = [role for role in roles if role not in setting.base]
        missing = [role for role in required if role not in adapters]
        if name == "none" or not missing or (adapters and name in ("team", "sft")):
            continue
        if not any(team.values()):
            raise EvalError(
                f"Setting {setting.name} needs the {name} adapters of a team: pass --team team.toml"
            )
        if name not in SETS:
            raise EvalError(
                f"Setting {setting.name} needs the set of adapters {name!r}, which has none for "
                f"{', '.join(missing)}. Choose one of {', '.join(('none', *SETS))}, or add it to "
                f"[own.{name}] in team.toml."
            )
        export = f"malt-data export --role {missing[0]} --format dpo, then "
        raise EvalError(
            f"Setting {setting.name} needs the {name} adapter of {', '.join(missing)}, which is "
            f"not in the team file. Train it: {export if name == 'lone' else ''}malt-data train "
            "--role all with the team's --dataset and --out."
        )
