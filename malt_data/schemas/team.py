"""`team.toml`: one base model with an adapter per role, and further sets of adapters.

model = "smollm2-135m"
seed = 0                           # of the training
[adapters]
generator = "generator_sft"        # a folder next to team.toml, or a Hub repo
verifier = "verifier_dpo"
refiner = "refiner_dpo"
[sft]                              # after SFT only, for the STaR baselines
generator = "generator_sft"
[sft_long]                         # the baselines of trainers/baselines.py, in the same form
[lone]
[shared]
[data]
generator_sft = "me/trees@3f2a…"   # what each adapter was trained on
[sampling]                         # as for the data, which the adapters expect
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
"""A set of a team's adapters: `team` is the table `[adapters]`, others are named like theirs."""
SETS: tuple[AdapterSet, ...] = get_args(AdapterSet)
FULL_SETS: tuple[AdapterSet, ...] = ("team", "sft", "sft_long", "shared")
"""The sets with an adapter for every role, with which a build can sample."""
BASELINES: tuple[AdapterSet, ...] = ("sft_long", "lone", "shared")
"""The sets for a fair comparison, trained after the team."""

AdapterSets = dict[str, dict[str, str]]
"""{"team": {role: adapter}, "sft": {role: adapter}, …}: the adapter sets of a team.toml."""


class Team(Model):
    """The content of team.toml; a role without an adapter uses the base model."""

    model: str
    seed: int | None = None
    """Seed of the training; None if the file does not have it."""
    adapters: dict[Role, str] = {}
    sft: dict[Role, str] = {}
    """Each role after SFT only: the paper's STaR baseline (§5.1)."""
    sft_long: dict[Role, str] = {}
    lone: dict[Role, str] = {}
    shared: dict[Role, str] = {}
    data: dict[str, str] = {}
    sampling: dict[str, Any] = {}
    """Build settings: temperature, max_tokens, prompts, grader, kind."""

    @field_validator("sampling")
    @classmethod
    def _check_sampling(cls, sampling: dict[str, Any]) -> dict[str, Any]:
        BuildSpec(**sampling)
        return sampling

    def by_set(self) -> AdapterSets:
        """Return `{"team": {role: adapter}, "sft": …}` with every set, including empty ones."""
        return {name: getattr(self, table_of(name)) for name in SETS}

    def require(self, name: AdapterSet) -> dict[str, str]:
        """Return the adapters of a set; raise SpecError if a role has none.

        In `team`, roles may use the base model.
        """
        adapters = self.by_set()[name]
        missing = [role for role in ROLES if role not in adapters]
        if missing and name != "team":
            raise SpecError(
                f"The team has no {name} adapter for {', '.join(missing)}. Add it to [{name}] in "
                "team.toml."
            )
        return adapters


def table_of(name: str) -> str:
    """Return the name of a set's table in team.toml."""
    return "adapters" if name == "team" else name
