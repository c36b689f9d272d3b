"""`team.toml`: one base model and an adapter a role, and the sets of adapters beside them.

model = "smollm2-135m"
seed = 0                           # of the training
[adapters]
generator = "generator_sft"        # beside team.toml, or a Hub repo
verifier = "verifier_dpo"
refiner = "refiner_dpo"
[sft]                              # after SFT only, for the STaR baselines
generator = "generator_sft"
[sft_long]                         # the baselines of trainers/baselines.py, tables like these
[lone]
[shared]
[data]
generator_sft = "me/trees@3f2a…"   # what each was trained on
[sampling]                         # as the data was: what the adapters expect
temperature = 0.3
max_tokens = 1024
[sampling.prompts.numeric.generator]
user = "{question} …"
"""

from typing import Any, Literal, get_args

from pydantic import field_validator

from malt_data.errors import SpecError
from malt_data.schemas.model import Model
from malt_data.schemas.roles import ROLES, Role
from malt_data.schemas.spec import BuildSpec

AdapterSet = Literal["team", "sft", "sft_long", "lone", "shared"]
"""Which adapters of a team: `team` are those of `[adapters]`, the others have the table's name."""
SETS: tuple[AdapterSet, ...] = get_args(AdapterSet)
FULL_SETS: tuple[AdapterSet, ...] = ("team", "sft", "sft_long", "shared")
"""The sets with an adapter for every role, which a build can sample with."""
BASELINES: tuple[AdapterSet, ...] = ("sft_long", "lone", "shared")
"""The sets that a fair comparison needs, trained beside the team."""

AdapterSets = dict[str, dict[str, str]]
"""{"team": {role: adapter}, "sft": {role: adapter}, …}: the adapter sets of a team.toml."""


class Team(Model):
    """The content of team.toml; a role without an adapter is the base model."""

    model: str
    seed: int | None = None
    """Of the training; None: a file that does not say."""
    adapters: dict[Role, str] = {}
    sft: dict[Role, str] = {}
    """Each role after SFT only: the paper's STaR baseline (§5.1)."""
    sft_long: dict[Role, str] = {}
    lone: dict[Role, str] = {}
    shared: dict[Role, str] = {}
    data: dict[str, str] = {}
    sampling: dict[str, Any] = {}
    """Settings of a build: temperature, max_tokens, prompts, grader, kind."""

    @field_validator("sampling")
    @classmethod
    def _settings_of_a_build(cls, sampling: dict[str, Any]) -> dict[str, Any]:
        BuildSpec(**sampling)
        return sampling

    def by_set(self) -> AdapterSets:
        """Return `{"team": {role: adapter}, "sft": …}`, every set, those without adapters too."""
        return {name: getattr(self, table_of(name)) for name in SETS}

    def require(self, name: AdapterSet) -> dict[str, str]:
        """Return the adapters of a set; raise SpecError where a role has none in it.

        In `team` a role may be the base model.
        """
        found = self.by_set()[name]
        missing = [role for role in ROLES if role not in found]
        if missing and name != "team":
            raise SpecError(
                f"The team has no {name} adapter for {', '.join(missing)}: team.toml needs it in "
                f"[{name}]."
            )
        return found


def table_of(name: str) -> str:
    """Return the table of team.toml that holds a set."""
    return "adapters" if name == "team" else name
