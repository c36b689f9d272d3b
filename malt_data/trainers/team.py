"""Training a whole team by the recipe, and the file that names it: `team.toml` (schemas/team.py).

    train_team("me/trees@v1", "team")
    read_team("team/team.toml").adapters["verifier"]     # 'team/verifier_dpo'

`malt-data build --team team.toml` grows the next forest with it (iterated MALT, §A.8.1); with
`--adapters sft` the next round of STaR.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from malt_data.engines.quiet import quiet_libraries
from malt_data.errors import SpecError
from malt_data.schemas import layout
from malt_data.schemas.team import BASELINES, Team, table_of
from malt_data.storage.documents import read_toml
from malt_data.storage.files import write_text
from malt_data.trainers.base import model_of
from malt_data.trainers.baselines import train_baselines
from malt_data.trainers.data import load_rows
from malt_data.trainers.dpo import train_dpo
from malt_data.trainers.recipe import Settings, Stage
from malt_data.trainers.sft import train_sft


def read_team(path: str | Path) -> Team:
    """Read team.toml; adapters beside it come out as paths. Raises SpecError where it is wrong."""
    path = Path(path)
    team = _read(path)

    def here(adapters: dict[str, str]) -> dict[str, str]:
        return {
            role: str(path.parent / name) if (path.parent / name).exists() else name
            for role, name in adapters.items()
        }

    return team.model_copy(
        update={table_of(name): here(adapters) for name, adapters in team.by_set().items()}
    )


def write_team(path: Path, team: Team) -> None:
    """Write team.toml, whole or not at all."""
    facts = team.model_dump(exclude_none=True)
    write_text(path, tomli_w.dumps({key: facts[key] for key in facts if facts[key] != {}}))


def train_team(
    dataset: str,
    out: str | Path,
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
    before the first stage begins. options: max_steps and on_progress of `train_sft` and
    `train_dpo`, whose errors it raises.
    """
    out, settings = Path(out), settings or Settings()
    stages = settings.stages(stage)
    with quiet_libraries(datasets=True):
        found = {f"{role}_{each}": load_rows(dataset, role, each) for role, each in stages}
    first = next(iter(found.values()))
    name = model_of(first, model, other_model)
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
    team = _with(team, *_known_baselines(out / layout.TEAM))
    write_team(out / layout.TEAM, team)
    if settings.baselines and stage is None:
        more, tables = train_baselines(source, out, records, **options)
        data = {key: record["data"] for key, record in more.items()}
        write_team(out / layout.TEAM, _with(team, tables, data))
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
    tables: dict[str, dict[str, str]] = {name: team.by_set()[name] for name in BASELINES}
    folders = {folder for adapters in tables.values() for folder in adapters.values()}
    return tables, {key: data for key, data in team.data.items() if key in folders}


def _read(path: Path) -> Team:
    try:
        return Team.model_validate(read_toml(path))
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} is not a team file: {error}") from None
