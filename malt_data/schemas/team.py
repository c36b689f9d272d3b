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
[own.balanced]                     # a set of your own: adapters = "balanced" in a setting
generator = "../balanced/generator_sft"
[data]
generator_sft = "me/trees@3f2a…"   # what each adapter was trained on
[sampling]                         # as for the data, which the adapters expect
temperature = 0.3
max_tokens = 1024
[sampling.pipeline]                # as in a pipeline file; without it, the shipped malt
name = "malt"
[[sampling.pipeline.turns]]
role = "generator"
[sampling.chat_template]           # for a base model
plain = true
[sampling.prompts.numeric.generator]
user = "{question} …"
"""

from typing import Any, Literal, Self, get_args

from pydantic import model_validator

from malt_data.errors import SpecError
from malt_data.schemas.model import Model
from malt_data.schemas.pipeline import Pipeline, require_role
from malt_data.schemas.spec import BuildSpec

AdapterSet = Literal["team", "sft", "sft_long", "lone", "shared"]
"""A set of a team's adapters: `team` is the table `[adapters]`, others are named like theirs."""
SETS: tuple[AdapterSet, ...] = get_args(AdapterSet)
FULL_SETS: tuple[AdapterSet, ...] = ("team", "sft", "sft_long", "shared")
"""The sets with an adapter for every role of the pipeline, with which a build can sample."""
BASELINES: tuple[AdapterSet, ...] = ("sft_long", "lone", "shared")
"""The sets for a fair comparison, trained after the team."""

AdapterSets = dict[str, dict[str, str]]
"""{"team": {role: adapter}, "sft": {role: adapter}, …}: the adapter sets of a team.toml."""


class Team(Model):
    """The content of team.toml; a role without an adapter uses the base model."""

    model: str
    seed: int | None = None
    """Seed of the training; None if the file does not have it."""
    adapters: dict[str, str] = {}
    sft: dict[str, str] = {}
    """Each role after SFT only: the paper's STaR baseline (§5.1)."""
    sft_long: dict[str, str] = {}
    lone: dict[str, str] = {}
    shared: dict[str, str] = {}
    own: dict[str, dict[str, str]] = {}
    """Sets of other names, e.g. of a baseline that was trained elsewhere."""
    data: dict[str, str] = {}
    sampling: dict[str, Any] = {}
    """Build settings: pipeline, chat_template, temperature, max_tokens, prompts, grader, kind."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if taken := {"none", *SETS} & self.own.keys():
            raise ValueError(f"own: {min(taken)} is the name of another set")
        roles = self.pipeline.roles  # raises SpecError if `sampling` is invalid
        for adapters in self.by_set().values():
            for role in adapters:
                require_role(role, roles)
        return self

    @property
    def pipeline(self) -> Pipeline:
        """Who speaks after whom: the chain that the adapters were trained for."""
        return BuildSpec(**self.sampling).pipeline

    def sampling_in(self, pipeline: Any = None) -> dict[str, Any]:
        """Return the sampling settings; in another pipeline, the prompts of the turns of both.

        pipeline: as BuildSpec takes it; None: the team's own.
        """
        if pipeline is None:
            return self.sampling
        names = {turn.template for turn in BuildSpec(pipeline=pipeline).pipeline.turns}
        prompts = {
            kind: shared
            for kind, templates in self.sampling.get("prompts", {}).items()
            if (shared := {name: parts for name, parts in templates.items() if name in names})
        }
        return {**self.sampling, "pipeline": pipeline, "prompts": prompts}

    def by_set(self) -> AdapterSets:
        """Return `{"team": {role: adapter}, "sft": …}` with every set, including empty ones."""
        return {name: getattr(self, table_of(name)) for name in SETS} | self.own

    def require(self, name: AdapterSet) -> dict[str, str]:
        """Return the adapters of a set; raise SpecError if a role has none.

        In `team`, roles may use the base model.
        """
        adapters = self.by_set()[name]
        missing = [role for role in self.pipeline.roles if role not in adapters]
        if missing and name != "team":
            raise SpecError(
                f"The team has no {name} adapter for {', '.join(missing)}. Add it to [{name}] in "
                "team.toml."
            )
        return adapters


def table_of(name: str) -> str:
    """Return the name of a set's table in team.toml."""
    return "adapters" if name == "team" else name
