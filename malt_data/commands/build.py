"""`build` a forest, `relabel` its samples."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from malt_data.commands import completion
from malt_data.commands.options import (
    FILE,
    Decorator,
    LazyChoice,
    NewFolder,
    capacity_options,
    combine,
    drop_unset,
    engine_options,
    forest_argument,
    grader_option,
    json_option,
    pipeline_option,
    read_config,
    setting,
    team_option,
)
from malt_data.commands.output import (
    console,
    note,
    note_refused,
    print_facts,
    print_json,
    print_table,
    say,
)
from malt_data.errors import ForestError

if TYPE_CHECKING:
    from malt_data.builders.build import BuildReport
    from malt_data.schemas.spec import BuildSpec

DEMO_LIMIT = 16
"""Trees to grow if neither questions nor a limit are given: takes minutes on two cores."""


def _adapter_sets() -> tuple[str, ...]:
    from malt_data.schemas.team import FULL_SETS

    return FULL_SETS


def _poolings() -> tuple[str, ...]:
    from typing import get_args

    from malt_data.schemas.spec import Pooling

    return get_args(Pooling)


class _BuildCommand(click.Command):
    """Reads `--n-verifier 2`, whose role only the pipeline knows, as `--n-ROLE verifier 2`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        split: list[str] = []
        left = iter(args)
        for arg in left:
            found = re.fullmatch("(--n-([a-z][a-z0-9_-]*))(?:=(.*))?", arg, re.DOTALL)
            if found is None:
                split.append(arg)
                continue
            option, role, value = found.groups()
            value = next(left, "") if value is None else value
            if ctx.resilient_parsing and not value.isdecimal():
                continue  # the shell completes a call that is not finished
            if not re.fullmatch("-?[0-9]{1,18}", value):  # here, where the option has its name
                raise click.BadParameter(f"{value!r} is not a number.", ctx, param_hint=option)
            split += ["--n-ROLE", role.replace("-", "_"), value]
        return super().parse_args(ctx, split)


def _tree_options() -> Decorator:
    return combine(
        pipeline_option(),
        setting("--n", type=int, help="Samples per parent, for every role.  [default: 3]"),
        click.option(
            "--n-ROLE",
            "by_role",
            type=(str, int),
            multiple=True,
            metavar="INTEGER",
            help="Samples per parent for one role, e.g. --n-verifier 2; overrides --n.",
        ),
        setting(
            "--adaptive",
            is_flag=True,
            help="Start from small trees (--n 2); sample more children where all siblings have the "
            "same label and a different one is likely.",
        ),
    )


def _question_options() -> Decorator:
    return combine(
        setting(
            "--questions",
            shell_complete=completion.questions,
            help="Question source: embedded, a benchmark (gsm8k, math, csqa, …), "
            "reasoning-gym:TASK, a JSONL, Parquet or CSV file, or a Hub dataset.  "
            "[default: 16 of the embedded]",
        ),
        setting("--split", help="Split of the question source.  [default: train]"),
        setting("--limit", type=int, help="Use at most this many questions, sampled at random."),
        setting("--shard", metavar="I/K", help="Grow only share I of K, e.g. one per machine."),
    )


@click.command(cls=_BuildCommand)
@click.option(
    "--out", type=NewFolder(), help="Folder of the forest.  [default: $MALT_FOREST or ./forest]"
)
@_tree_options()
@_question_options()
@engine_options()
@capacity_options()
@team_option("Take the model, adapters and sampling settings from a team.toml.")
@click.option(
    "--adapters",
    "adapter_set",
    type=LazyChoice(_adapter_sets),
    help="Adapters of --team to sample with; sft for the next STaR round.  [default: team]",
)
@grader_option()
@setting("--seed", type=int, help="Random seed of the build.  [default: 0]")
@click.option("--prompts", "prompts_file", type=FILE, help="TOML file with custom prompts.")
@click.option(
    "--config",
    type=FILE,
    help="TOML file with any of these settings, plus threshold, pooling, fields, adapters, and the "
    "tables adaptive, engine, sampling and chat_template.",
)
@setting("--max-tokens-total", type=int, help="Stop when the forest has cost that many tokens.")
@setting("--max-pairs", type=int, help="Stop when the forest has that many usable pairs.")
@setting("--max-hours", type=float, help="Stop after that many hours.")
@click.option("--plan", is_flag=True, help="Grow a few trees and predict the rest from them.")
@click.option("--dry-run", is_flag=True, help="Show the size; sample and write nothing.")
@json_option
def build(
    out: Path | None,
    config: Path | None,
    team: Path | None,
    adapter_set: str | None,
    prompts_file: Path | None,
    plan: bool,
    dry_run: bool,
    as_json: bool,
    by_role: tuple[tuple[str, int], ...],
    **options: Any,
) -> None:
    """Grow, grade and label a forest, or resume one.

    An interrupted build resumes when you run the same command again.

    \b
    malt-data build --n 3
    malt-data build --questions gsm8k --engine vllm --model Qwen/Qwen3-4B
    malt-data build --questions gsm8k --plan
    malt-data build --questions mine.jsonl \\
        --engine openai --base-url http://127.0.0.1:8000/v1
    malt-data build --questions tasks.jsonl --grader rewards.py:grade
    malt-data build --config build.toml --prompts prompts.toml --shard 1/4
    malt-data build --team team/team.toml --out round-2
    """
    from malt_data.builders.build import build_forest
    from malt_data.builders.plan import plan_build
    from malt_data.commands.progress import BuildProgress
    from malt_data.schemas.layout import default_folder
    from malt_data.schemas.spec import Budget

    folder = out or default_folder()
    if adapter_set and team is None:
        raise click.UsageError("--adapters selects a team's adapters: pass --team too.")
    settings = read_config(config)
    if options["adaptive"] and settings.get("adaptive"):  # the config says how
        options["adaptive"] = None
    given = settings | drop_unset(options)
    given |= {f"n_{role}": n for role, n in by_role}
    budget = Budget(**{name: given.pop(name) for name in Budget.model_fields if name in given})
    spec = _build_spec(_with_team(team, adapter_set or "team", given), folder, whole=plan)
    if plan:
        if dry_run:
            raise click.UsageError("--plan grows trees, --dry-run grows none: pass one of them.")
        if budget != Budget():
            raise click.UsageError("--plan grows its pilot whatever the budget: leave out --max-….")
        _plan(spec, folder, prompts_file, as_json)
        return
    if dry_run:
        print_facts(plan_build(spec, folder, prompts_file=prompts_file), as_json)
        return
    with BuildProgress(spec.chain.nodes_per_tree, adaptive=bool(spec.adaptive)) as progress:
        report = build_forest(
            spec,
            folder,
            budget=budget,
            prompts_file=prompts_file,
            on_progress=progress.on_progress,
            note=progress.note,
        )
    if as_json:
        print_json({"forest": str(folder), **report.to_dict()})
    else:
        say(report.summary(folder))
    note_refused(report.refused)
    if report.stopped is not None:
        option = f"--{report.stopped.replace('_', '-')}"
        note(f"Stopped at {option}. For the other trees, run it again with more, or without it.")
    _require_complete(report)


def _plan(spec: "BuildSpec", folder: Path, prompts_file: Path | None, as_json: bool) -> None:
    """Grow the pilot and print what the whole forest will have."""
    from malt_data.builders.pilot import predict_build
    from malt_data.commands.progress import BuildProgress
    from malt_data.report.plans import print_plan

    with BuildProgress(spec.chain.nodes_per_tree) as progress:
        facts = predict_build(
            spec,
            folder,
            prompts_file=prompts_file,
            on_progress=progress.on_progress,
            note=progress.note,
        )
    if as_json:
        print_json(facts)
        return
    print_plan(facts, console())
    if facts["trees_left"]:
        rest = f"the other {facts['trees_left']} trees"
        note(f"To grow {rest}, run it with --questions {spec.questions} and without --plan.")


def _build_spec(settings: dict[str, Any], folder: Path, *, whole: bool) -> "BuildSpec":
    """Return the spec of a build, with what `folder`'s forest already fixes filled in.

    whole: all questions if nothing says how many, instead of as many as a demo takes.
    """
    from malt_data.builders.plan import complete_settings
    from malt_data.schemas.spec import BuildSpec

    values = complete_settings(settings, folder)
    if not whole and not {"questions", "limit"} & set(values):
        values["limit"] = DEMO_LIMIT
        note(f"Growing {DEMO_LIMIT} trees; --questions embedded grows the whole embedded set.")
    return BuildSpec(**values)


def _require_complete(report: "BuildReport") -> None:
    """Raise ForestError if the build was interrupted or trees failed."""
    if report.interrupted:
        raise ForestError("Interrupted. Finished trees are kept; run the same command to resume.")
    if report.failed:
        question, error = next(iter(report.failed.items()))
        raise ForestError(
            f"{len(report.failed)} trees failed and are not in the forest. The first, "
            f"{question}: {error} Run the same command again to retry them."
        )


def _with_team(path: Path | None, adapter_set: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a team, below those `given`."""
    if path is None:
        return given
    from malt_data.graders import require_named
    from malt_data.schemas.spec import BuildSpec
    from malt_data.storage.team import read_team

    team = read_team(path)
    if "grader" not in given:
        require_named(str(team.sampling.get("grader", "")), path)
    sampling = team.sampling_in(given.get("pipeline"))
    roles = BuildSpec(**sampling).pipeline.roles
    adapters = team.require(adapter_set).items()
    used = {role: adapter for role, adapter in adapters if role in roles}
    return {"model": team.model, **sampling, "adapters": used, **given}


@click.command()
@forest_argument
@click.option("--threshold", type=float, help="Label nodes with a higher value positive.")
@click.option(
    "--pooling",
    type=LazyChoice(_poolings),
    help="Average the values (global) or labels (local) of a node's children (MALT §A.5).",
)
@grader_option("Grade all answers again with this grader.")
@click.option("--out", type=NewFolder(), help="Write a relabelled copy; leave FOREST unchanged.")
@click.option("--dry-run", is_flag=True, help="Only report which labels would change.")
@click.option(
    "--sweep", "sweeps", is_flag=True, help="Compare thresholds and poolings; change nothing."
)
@click.option(
    "--figure",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --sweep, also draw it: FILE.svg, .png or .pdf.",
)
@json_option
def relabel(
    forest: str | None,
    out: Path | None,
    dry_run: bool,
    sweeps: bool,
    figure: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Relabel a forest's samples without calling a model.

    \b
    malt-data relabel --sweep --figure sweep.svg
    malt-data relabel --threshold 0.7 --dry-run
    malt-data relabel --pooling local --out forest-local
    malt-data relabel --grader rewards.py:grade
    """
    from malt_data.commands.progress import Progress
    from malt_data.forests.forest import open_forest
    from malt_data.forests.relabel import relabel as relabel_forest

    if sweeps:
        if out or drop_unset(options):
            raise click.UsageError("--sweep only goes with --figure and --json: it compares all.")
        _sweep(forest, figure, as_json)
        return
    if figure:
        raise click.UsageError("--figure needs --sweep.")
    opened = open_forest(forest)
    labels = opened.manifest.labels.updated(**drop_unset(options))
    with Progress("relabel") as progress:
        flips = relabel_forest(
            opened,
            labels,
            regrade=options["grader"] is not None,
            out=out,
            dry_run=dry_run,
            on_progress=progress.of("parts"),
            note=progress.note,
        )
    if as_json:
        print_json({"labels": labels.model_dump(), "flips": flips})
        return
    print_table([{"role": role, **_spaced(counts)} for role, counts in flips.items()])


def _sweep(forest: str | None, figure: Path | None, as_json: bool) -> None:
    """Print, and draw, what each threshold and pooling would make of a forest."""
    from malt_data.commands.progress import Progress
    from malt_data.forests.forest import open_forest
    from malt_data.forests.sweep import sweep
    from malt_data.report.sweep import draw_sweep, require_figure, sweep_table

    if figure:
        require_figure(figure)  # before the work
    opened = open_forest(forest)
    with Progress("sweep") as progress:
        rows = sweep(opened, on_progress=progress.of("settings"))
    if figure:
        draw_sweep(rows, figure)
    if as_json:
        print_json({"labels": opened.manifest.labels.model_dump(), "sweep": rows})
        return
    print_table(sweep_table(rows))


def _spaced(counts: dict[str, int]) -> dict[str, int]:
    """Return `counts` with names that a narrow column can wrap."""
    return {name.replace("_", " "): count for name, count in counts.items()}
