"""Growing: `build` a forest, `relabel` its samples."""

from pathlib import Path
from typing import Any

import click

from malt_data.commands.options import (
    FILE,
    Decorator,
    LateChoice,
    NewFolder,
    concurrency_option,
    engine_options,
    forest_argument,
    given,
    grader_option,
    json_option,
    read_config,
    setting,
    team_option,
    together,
)
from malt_data.commands.output import note, note_refused, print_facts, print_json, print_table, say
from malt_data.errors import ForestError

DEMO_LIMIT = 16
"""Trees of a build that names neither questions nor a limit: minutes on two cores."""


def _adapter_sets() -> tuple[str, ...]:
    from malt_data.schemas.team import FULL_SETS

    return FULL_SETS


def _poolings() -> tuple[str, ...]:
    from typing import get_args

    from malt_data.schemas.spec import Pooling

    return get_args(Pooling)


def _branching_options() -> Decorator:
    return together(
        setting("--n", type=int, help="Samples a parent for every role.  [default: 3]"),
        setting("--n-generator", type=int, help="The same for one role."),
        setting("--n-verifier", type=int, help="The same for one role."),
        setting("--n-refiner", type=int, help="The same for one role."),
    )


def _question_options() -> Decorator:
    return together(
        setting(
            "--questions",
            help="embedded, a benchmark (gsm8k, math, csqa, …), reasoning-gym:TASK, "
            "a JSONL, Parquet or CSV file, or a Hub dataset.  "
            "[default: embedded]",
        ),
        setting("--split", help="Split of the source.  [default: train]"),
        setting(
            "--limit", type=int, help="At most so many questions, a random sample by the seed."
        ),
        setting("--shard", metavar="I/K", help="Only the I-th of K equal shares (one a machine)."),
    )


@click.command()
@click.option("--out", type=NewFolder(), help="Folder of the forest.  [default: forest]")
@_branching_options()
@_question_options()
@engine_options()
@concurrency_option
@team_option("team.toml: its model, and its adapter for each role.")
@click.option(
    "--adapters",
    "adapter_set",
    type=LateChoice(_adapter_sets),
    help="Which adapters of --team; sft: a next round of STaR.  [default: team]",
)
@grader_option()
@setting("--seed", type=int, help="Seed of the build.  [default: 0]")
@click.option("--prompts", "prompts_file", type=FILE, help="TOML file with templates of your own.")
@click.option(
    "--config",
    type=FILE,
    help="TOML file with any of these settings, and threshold, pooling, fields, adapters.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done; sample and write nothing.")
@json_option
def build(
    out: Path | None,
    config: Path | None,
    team: Path | None,
    adapter_set: str | None,
    prompts_file: Path | None,
    dry_run: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Grow, grade and label a forest; run it again to complete it.

    \b
    malt-data build --n 3
    malt-data build --questions gsm8k --engine vllm --model Qwen/Qwen3-4B
    malt-data build --questions mine.jsonl \\
        --engine openai --base-url http://127.0.0.1:8000/v1
    """
    from malt_data.builders.build import build_forest
    from malt_data.builders.plan import complete_settings, plan_build
    from malt_data.commands.progress import BuildProgress
    from malt_data.forests.forest import default_folder
    from malt_data.schemas.spec import BuildSpec

    folder = out or default_folder()
    if adapter_set and team is None:
        raise click.UsageError("--adapters says which adapters of a team: give --team too.")
    asked = _of_team(team, adapter_set or "team") | read_config(config) | given(settings)
    values = complete_settings(asked, folder)
    if not {"questions", "limit"} & set(values):
        values["limit"] = DEMO_LIMIT
        note(f"Growing {DEMO_LIMIT} trees; --questions embedded grows the whole embedded set.")
    spec = BuildSpec(**values)
    if dry_run:
        print_facts(plan_build(spec, folder, prompts_file=prompts_file), as_json)
        return
    with BuildProgress(spec.nodes_a_tree) as progress:
        report = build_forest(
            spec,
            folder,
            prompts_file=prompts_file,
            on_progress=progress.on_progress,
            note=progress.note,
        )
    if as_json:
        print_json({"forest": str(folder), **report.to_dict()})
    else:
        say(report.summary(folder))
    note_refused(report.refused)
    if report.interrupted:
        raise ForestError(
            "Interrupted; every finished tree is kept. Run the same command to go on."
        )
    if report.failed:
        name, said = next(iter(report.failed.items()))
        raise ForestError(
            f"{len(report.failed)} trees failed and stay out of the forest, the first ({name}) "
            f"with: {said} Run the same command again to complete them."
        )


def _of_team(path: Path | None, adapters: Any) -> dict[str, Any]:
    if path is None:
        return {}
    from malt_data.trainers.team import read_team

    team = read_team(path)
    return {"model": team.model, "adapters": team.require(adapters), **team.sampling}


@click.command()
@forest_argument
@click.option("--threshold", type=float, help="A node above it is positive.")
@click.option("--pooling", type=LateChoice(_poolings), help="Means or majorities (§A.5).")
@grader_option("How answers are read and compared.")
@click.option("--out", type=NewFolder(), help="Write a copy, leave FOREST as it is.")
@click.option("--dry-run", is_flag=True, help="Only report what would flip.")
@json_option
def relabel(
    forest: str | None, out: Path | None, dry_run: bool, as_json: bool, **labels: Any
) -> None:
    """Label the same samples again, without calling a model.

    \b
    malt-data relabel --threshold 0.7 --dry-run
    malt-data relabel --pooling local --out forest-local
    """
    from malt_data.commands.progress import Steps
    from malt_data.forests.forest import open_forest
    from malt_data.forests.relabel import relabel as relabel_forest

    opened = open_forest(forest)
    wanted = opened.manifest.labels.updated(**given(labels))
    with Steps("relabel") as steps:
        flips = relabel_forest(
            opened,
            wanted,
            regrade=labels["grader"] is not None,
            out=out,
            dry_run=dry_run,
            on_progress=steps.update,
        )
    if as_json:
        print_json({"labels": wanted.model_dump(), "flips": flips})
        return
    print_table([{"role": role, **counts} for role, counts in flips.items()])
