"""A team: one base model and an adapter a role, trained by the whole recipe, named by one file.

    team.toml
      model = "smollm2-135m"
      seed = 0                           # of the training
      [adapters]
      generator = "generator_sft"        # beside team.toml, or a Hub repo
      verifier = "verifier_dpo"
      refiner = "refiner_dpo"
      [sft]                              # after SFT only, for the STaR baselines
      generator = "generator_sft"
      [sft_long]                         # the baselines of baselines.py, each a table like these
      [lone]
      [shared]
      [data]
      generator_sft = "me/trees@3f2a…"   # what each was trained on
      [sampling]                         # as the data was: what the adapters expect
      temperature = 0.3
      max_tokens = 1024
      [sampling.prompts.numeric.generator]
      user = "{question} …"

`malt-data build --team team.toml` grows the next forest with it (iterated MALT, §A.8.1); with
`--adapters sft` the next round of STaR.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from malt_data.errors import SpecError
from malt_data.forests.parts import write_text
from malt_data.schemas.ids import ROLES
from malt_data.schemas.manifest import Spec, sentence
from malt_data.storage.documents import read_toml
from malt_data.trainers.baselines import train_baselines
from malt_data.trainers.data import load
from malt_data.trainers.recipe import Settings, Stage
from malt_data.trainers.training import base_of, library_noise, questions_of

TEAM = "team.toml"
AdapterSet = Literal["team", "sft", "sft_long", "lone", "shared"]
"""Which adapters of a team: `team` are those of `[adapters]`, the others have the table's name."""
SETS: tuple[AdapterSet, ...] = get_args(AdapterSet)


class Team(BaseModel):
    """The content of team.toml; a role without an adapter is the base model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    seed: int | None = None
    """Of the training; None: a file that does not say."""
    adapters: dict[str, str] = {}
    sft: dict[str, str] = {}
    """Each role after SFT only: the paper's STaR baseline (§5.1)."""
    sft_long: dict[str, str] = {}
    lone: dict[str, str] = {}
    shared: dict[str, str] = {}
    data: dict[str, str] = {}
    sampling: dict[str, Any] = {}
    """Settings of a build: temperature, max_tokens, prompts."""

    def by_set(self) -> dict[str, dict[str, str]]:
        """Return `{"team": {role: adapter}, "sft": …}`, every set, those without adapters too."""
        return {name: getattr(self, _table(name)) for name in SETS}

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

    def trained_on(self) -> dict[str, frozenset[str] | None]:
        """Return the ids of the questions that each adapter was trained on; None: it says none."""
        names = {name for adapters in self.by_set().values() for name in adapters.values()}
        return {name: questions_of(name) for name in sorted(names)}


def read_team(path: Path) -> Team:
    """Read team.toml; adapters beside it come out as paths. Raises SpecError where it is wrong."""
    team = _read(path)

    def here(adapters: dict[str, str]) -> dict[str, str]:
        return {
            role: str(path.parent / name) if (path.parent / name).exists() else name
            for role, name in adapters.items()
        }

    return team.model_copy(
        update={_table(name): here(adapters) for name, adapters in team.by_set().items()}
    )


def write_team(path: Path, team: Team) -> None:
    """Write team.toml, whole or not at all."""
    facts = team.model_dump(exclude_none=True)
    write_text(path, tomli_w.dumps({key: facts[key] for key in facts if facts[key] != {}}))


def train_team(
    dataset: str,
    out: Path,
    *,
    stage: Stage | None = None,
    model: str | None = None,
    other_model: bool = False,
    settings: Settings | None = None,
    note: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Mapping[str, dict[str, Any]]:
    """Run the recipe into `out`, a folder a stage, and write team.toml; return the records.

    stage: "sft" trains a team by SFT alone (STaR). The baselines of a whole team follow once it is
    complete, see baselines.py. A finished stage is passed over. All data of the team is looked at
    before the first stage begins. options: max_steps and watch of `train_sft` and `train_dpo`,
    whose errors it raises.
    """
    from malt_data.trainers.dpo import train_dpo
    from malt_data.trainers.sft import train_sft

    settings = settings or Settings()
    stages = settings.stages(stage)
    with library_noise():
        found = {f"{role}_{each}": load(dataset, role, each) for role, each in stages}
    first = next(iter(found.values()))
    name = base_of(first, model, other_model)
    options |= {"model": name, "other_model": other_model, "settings": settings, "note": note}
    # One commit for all, whatever is pushed meanwhile.
    source = dataset if first.commit is None else first.pinned
    records = {}
    adapters: dict[str, str] = {}
    for number, (role, each) in enumerate(stages, 1):
        key = f"{role}_{each}"
        note(f"{number}/{len(stages)} {key}: {len(found[key].train)} rows")
        if each == "sft":
            records[key] = train_sft(role, source, out / key, **options)
        else:
            start = str(out / adapters[role])
            records[key] = train_dpo(role, source, out / key, adapter=start, **options)
        adapters[role] = key
    sft = {role: f"{role}_sft" for role in adapters}
    sampling = first.report.sampling if first.report else {}
    team = Team(
        model=name, seed=settings.seed, adapters=adapters, sft=sft, sampling=sampling,
        data={key: record["data"] for key, record in records.items()},
    )  # fmt: skip
    team = _with(team, *_known_baselines(out / TEAM))
    write_team(out / TEAM, team)
    if settings.baselines and stage is None:
        more, tables = train_baselines(source, out, records, **options)
        data = {key: record["data"] for key, record in more.items()}
        write_team(out / TEAM, _with(team, tables, data))
        records |= more
    return records


def _with(team: Team, tables: Mapping[str, dict[str, str]], data: Mapping[str, str]) -> Team:
    return team.model_copy(update={**tables, "data": {**data, **team.data}})


def _known_baselines(path: Path) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Return the baselines that an earlier run named in team.toml, and their data."""
    try:
        team = _read(path)
    except SpecError:  # none there, or none that can be read: the new one replaces it
        return {}, {}
    tables: dict[str, dict[str, str]] = {name: team.by_set()[name] for name in SETS[2:]}
    folders = {folder for adapters in tables.values() for folder in adapters.values()}
    return tables, {key: data for key, data in team.data.items() if key in folders}


def _read(path: Path) -> Team:
    try:
        team = Team.model_validate(read_toml(path))
        Spec.model_validate(team.sampling)
    except ValidationError as error:
        raise SpecError(f"{path}: {sentence(error)}") from None
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} is no team file: {error}") from None
    named = {role for adapters in team.by_set().values() for role in adapters}
    if unknown := sorted(named - set(ROLES)):
        raise SpecError(f"{path}: unknown role {unknown[0]!r}; one of {', '.join(ROLES)}.")
    return team


def _table(name: str) -> str:
    """Return the table of team.toml that holds a set."""
    return "adapters" if name == "team" else name
