"""Train a whole team by the recipe.

    train_team("me/trees@v1", "team")     # writes team/team.toml and an adapter per stage

`malt-data build --team team.toml` grows the next forest with the team (iterated MALT, §A.8.1), or,
with `--adapters sft`, the next round of STaR.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from malt_data.engines.quiet import quiet_libraries
from malt_data.errors import SpecError
from malt_data.schemas import layout
from malt_data.schemas.team import BASELINES, Team
from malt_data.storage.team import parse_team, write_team
from malt_data.trainers.base import model_of
from malt_data.trainers.baselines import train_baselines
from malt_data.trainers.data import load_rows, pipeline_of
from malt_data.trainers.dpo import train_dpo
from malt_data.trainers.recipe import Recipe, Stage
from malt_data.trainers.sft import train_sft


def train_team(
    dataset: str,
    out: str | Path,
    *,
    stage: Stage | None = None,
    model: str | None = None,
    other_model: bool = False,
    recipe: Recipe | None = None,
    note: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Mapping[str, dict[str, Any]]:
    """Run the recipe, one folder per stage in `out`, and write team.toml; return the records.

    stage: "sft" trains the team with SFT only (STaR). A whole team is followed by its baselines,
    see baselines.py. Finished stages are skipped. All data is checked before the first stage
    starts. The roles are those of the pipeline that grew the data. options: max_steps and
    on_progress of `train_sft` and `train_dpo`. Raises their errors.
    """
    out, recipe = Path(out), recipe or Recipe()
    # One commit for all stages, even if others are pushed meanwhile.
    pipeline, source = pipeline_of(dataset)
    stages = recipe.stages(pipeline.roles, stage)
    with quiet_libraries(datasets=True):
        data = {f"{role}_{each}": load_rows(source, role, each) for role, each in stages}
    first = next(iter(data.values()))
    name = model_of(first, model, other_model)
    options |= {"model": name, "other_model": other_model, "recipe": recipe, "note": note}
    records = {}
    adapters: dict[str, str] = {}
    for index, (role, each) in enumerate(stages, 1):
        key = f"{role}_{each}"
        note(f"{index}/{len(stages)} {key}: {len(data[key].train)} rows")
        if each == "sft":
            records[key] = train_sft(role, source, out / key, **options)
        else:
            start = str(out / adapters[role])
            records[key] = train_dpo(role, source, out / key, adapter=start, **options)
        adapters[role] = key
    sft = {role: f"{role}_sft" for role in adapters}
    sampling = first.report.sampling if first.report else {}
    team = Team(
        model=name, seed=recipe.seed, adapters=adapters, sft=sft, sampling=sampling,
        data={key: record["data"] for key, record in records.items()},
    )  # fmt: skip
    team = _with(team, *_existing_sets(out / layout.TEAM))
    write_team(out / layout.TEAM, team)
    if recipe.baselines and stage is None:
        baselines, tables = train_baselines(source, out, records, pipeline.roles, **options)
        sources = {key: record["data"] for key, record in baselines.items()}
        write_team(out / layout.TEAM, _with(team, tables, sources))
        records |= baselines
    return records


def _with(team: Team, tables: Mapping[str, Any], data: Mapping[str, str]) -> Team:
    return team.model_copy(update={**tables, "data": {**data, **team.data}})


def _existing_sets(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the baselines and own sets in the team.toml of an earlier run, and the data of the
    baselines.
    """
    try:
        team = parse_team(path)
    except SpecError:  # missing or invalid: the new file replaces it
        return {}, {}
    tables: dict[str, dict[str, str]] = {name: team.by_set()[name] for name in BASELINES}
    folders = {folder for adapters in tables.values() for folder in adapters.values()}
    data = {key: source for key, source in team.data.items() if key in folders}
    return {**tables, "own": team.own}, data
