"""A team: one base model and an adapter a role, trained by the whole recipe, named by one file.

    team.toml
      model = "smollm2-135m"
      [adapters]
      generator = "generator_sft"        # beside team.toml, or a Hub repo
      verifier = "verifier_dpo"
      refiner = "refiner_dpo"
      [sft]
      generator = "generator_sft"        # after SFT only, for the STaR baselines
      [data]
      generator_sft = "me/trees@3f2a…"   # what each was trained on
      [sampling]                         # as the data was: what the adapters expect
      temperature = 0.3
      max_tokens = 1024
      [sampling.prompts.numeric.generator]
      user = "{question} …"

`malt-data build --team team.toml` grows the next forest with it (iterated MALT, §A.8.1).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from malt_data.documents import read_toml
from malt_data.errors import SpecError
from malt_data.exporters.access import fetch_file
from malt_data.forests.parts import write_text
from malt_data.schemas.ids import ROLES
from malt_data.schemas.manifest import Spec, sentence
from malt_data.trainers.data import load
from malt_data.trainers.recipe import Settings
from malt_data.trainers.training import QUESTIONS, base_of, library_noise

TEAM = "team.toml"


class Team(BaseModel):
    """The content of team.toml; a role without an adapter is the base model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    adapters: dict[str, str] = {}
    sft: dict[str, str] = {}
    """Each role after SFT only: the paper's STaR baseline (§5.1)."""
    data: dict[str, str] = {}
    sampling: dict[str, Any] = {}
    """Settings of a build: temperature, max_tokens, prompts."""

    def trained_on(self) -> dict[str, frozenset[str] | None]:
        """Return the ids of the questions that each adapter was trained on; None: it says none."""
        found: dict[str, frozenset[str] | None] = {}
        for name in sorted({*self.adapters.values(), *self.sft.values()}):
            path = Path(name) / QUESTIONS
            if not path.exists() and name.count("/") == 1 and not Path(name).exists():
                path = fetch_file(name, QUESTIONS)
            found[name] = frozenset(path.read_text("utf-8").split()) if path.exists() else None
        return found


def read_team(path: Path) -> Team:
    """Read team.toml; adapters beside it come out as paths. Raises SpecError where it is wrong."""
    try:
        team = Team.model_validate(read_toml(path))
        Spec.model_validate(team.sampling)
    except ValidationError as error:
        raise SpecError(f"{path}: {sentence(error)}") from None
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} is no team file: {error}") from None
    if unknown := sorted({*team.adapters, *team.sft} - set(ROLES)):
        raise SpecError(f"{path}: unknown role {unknown[0]!r}; one of {', '.join(ROLES)}.")

    def here(adapters: dict[str, str]) -> dict[str, str]:
        return {
            role: str(path.parent / name) if (path.parent / name).exists() else name
            for role, name in adapters.items()
        }

    return team.model_copy(update={"adapters": here(team.adapters), "sft": here(team.sft)})


def write_team(path: Path, team: Team) -> None:
    """Write team.toml, whole or not at all."""
    facts = team.model_dump(exclude_none=True)
    write_text(path, tomli_w.dumps({key: facts[key] for key in facts if facts[key]}))


def train_team(
    dataset: str,
    out: Path,
    *,
    model: str | None = None,
    other_model: bool = False,
    settings: Settings | None = None,
    note: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Mapping[str, dict[str, Any]]:
    """Run the recipe into `out`, a folder a stage, and write team.toml; return the records.

    A finished stage is passed over. All data is looked at before the first stage begins. options:
    max_steps and watch of `train_sft` and `train_dpo`, whose errors it raises.
    """
    from malt_data.trainers.dpo import train_dpo
    from malt_data.trainers.sft import train_sft

    settings = settings or Settings()
    stages = settings.stages()
    with library_noise():
        found = {f"{role}_{stage}": load(dataset, role, stage) for role, stage in stages}
    name = base_of(next(iter(found.values())), model, other_model)
    options |= {"model": name, "other_model": other_model, "settings": settings, "note": note}
    pinned = {key: data.pinned for key, data in found.items()}
    records = {}
    adapters: dict[str, str] = {}
    for number, (role, stage) in enumerate(stages, 1):
        key = f"{role}_{stage}"
        note(f"{number}/{len(stages)} {key}: {len(found[key].train)} rows")
        source = dataset if found[key].commit is None else pinned[key]
        if stage == "sft":
            records[key] = train_sft(role, source, out / key, **options)
        else:
            start = str(out / adapters[role])
            records[key] = train_dpo(role, source, out / key, adapter=start, **options)
        adapters[role] = key
    sft = {role: f"{role}_sft" for role in adapters}
    report = next((data.report for data in found.values() if data.report), None)
    sampling = report.sampling if report else {}
    team = Team(model=name, adapters=adapters, sft=sft, data=pinned, sampling=sampling)
    write_team(out / TEAM, team)
    return records
