"""`export` training sets, `push` and `pull` a forest with its exports."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from malt_data.commands.arguments import open_for_command
from malt_data.commands.options import (
    FILE,
    LazyChoice,
    NewFolder,
    args_argument,
    drop_unset,
    forest_argument,
    json_option,
    read_config,
    role_option,
    setting,
)
from malt_data.commands.output import console, print_json, say
from malt_data.errors import ExportError

if TYPE_CHECKING:
    from malt_data.exporters.export import ExportReport
    from malt_data.exporters.selection import Selection
    from malt_data.forests.forest import Forest
    from malt_data.schemas.exports import Config


def _formats() -> tuple[str, ...]:
    from malt_data.schemas.exports import FORMATS

    return tuple(FORMATS)


def _layouts() -> tuple[str, ...]:
    from malt_data.exporters.layouts import LAYOUTS, TRL

    return (TRL, *LAYOUTS)


def _strategies() -> tuple[str, ...]:
    from malt_data.schemas.exports import Strategy

    return get_args(Strategy)


def _positives() -> tuple[str, ...]:
    from malt_data.schemas.exports import Positives

    return get_args(Positives)


@click.command()
@forest_argument
@role_option("Role to train.  [default: all]")
@click.option(
    "--format",
    "form",
    type=LazyChoice(_formats),
    help="Format of the training set.  [default: sft and dpo]",
)
@click.option(
    "--layout",
    type=LazyChoice(_layouts),
    default="trl",
    show_default=True,
    help="Tool that reads it; see docs/layouts.md.",
)
@click.option(
    "--out",
    type=NewFolder(),
    help="Folder of the export.  [default: FOREST/exports/ROLE_FORMAT, or ROLE_FORMAT_LAYOUT]",
)
@setting(
    "--strategy",
    type=LazyChoice(_strategies),
    help="Pairs to keep per parent: all, highest against lowest value, or one at random.  "
    "[default: all]",
)
@setting("--margin", type=float, help="Minimum difference between a pair's values.  [default: 0]")
@setting(
    "--positives",
    type=LazyChoice(_positives),
    help="Positives to keep: all, those with a negative sibling (paired, MALT §4.3), or those "
    "of questions with a negative (mixed).  [default: all]",
)
@setting("--max-per-parent", type=int, help="Maximum rows per parent.")
@setting("--max-per-question", type=int, help="Maximum rows per question.")
@setting(
    "--min-confidence",
    type=float,
    help="Minimum probability that a label is right, given all leaves of its tree.  [default: 0]",
)
@setting("--validation", type=float, help="Fraction of questions to hold out.  [default: 0.1]")
@setting("--seed", type=int, help="Random seed of the split and all choices.  [default: 0]")
@click.option(
    "--config",
    type=FILE,
    help="TOML file with any of these settings, plus thinking (write what a reasoning model "
    "thought), keep_ungraded, keep_truncated, keep_identical and drop_duplicates.",
)
@setting("--tokenizer", help="Leave out rows that do not fit this model's chat template.")
@setting("--max-length", type=int, help="Leave out rows with more tokens than this.")
@click.option(
    "--check",
    is_flag=True,
    help="Check the rows against the chat template of --tokenizer or the forest's model.",
)
@click.option("--push", "repo", metavar="USER/NAME", help="Push forest and exports to the Hub.")
@click.option("--dry-run", is_flag=True, help="Count rows without writing them.")
@json_option
def export(
    forest: str | None,
    role: str | None,
    form: str | None,
    layout: str,
    out: Path | None,
    config: Path | None,
    check: bool,
    repo: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write training sets that trainers can read directly.

    \b
    malt-data export --role refiner --format dpo
    malt-data export --check
    malt-data export --format sft --layout axolotl
    malt-data export --role verifier --format dpo --strategy one --push me/t
    malt-data export --config export.toml --tokenizer Qwen/Qwen3-4B
    """
    from malt_data.exporters import export as exporting
    from malt_data.exporters.selection import Selection
    from malt_data.report.exports import print_export
    from malt_data.schemas.exports import select_configs
    from malt_data.storage.hub import require_repo

    if repo is not None:
        require_repo(repo)  # before the work
    opened = open_for_command(forest)
    roles = opened.manifest.spec.pipeline.roles
    requested = select_configs(roles, role, form)
    _refuse_conflicts(requested, layout, out=out, repo=repo, check=check, dry_run=dry_run)
    selection = Selection(**read_config(config) | drop_unset(options))
    checker = _checker(opened, selection) if check else None
    reports = _export(opened, requested, selection, layout, out, dry_run=dry_run)
    facts = {report.config: report.model_dump(mode="json") for report in reports}
    problems: list[str] = []
    if checker is not None:
        for item in requested:
            result = checker(exporting.export_folder(opened, item, out))
            if _may_be_empty(item, roles, role, form) and not result["rows"]:
                result["problems"] = []
            facts[item.name]["check"] = result
            problems += result["problems"]
    pushed = None
    if repo is not None and not dry_run and not problems:
        from malt_data.publish.push import push as push_forest

        pushed = push_forest(opened, repo)
        facts["push"] = asdict(pushed)
    if as_json:
        print_json(facts)
    else:
        for item, report in zip(requested, reports, strict=True):
            folder = None if dry_run else exporting.export_folder(opened, item, out, layout=layout)
            print_export(report, folder, facts[item.name].get("check"), console())
        if pushed is not None:
            say(pushed.summary())
    if problems:
        raise ExportError("Training on these exports would fail: " + " ".join(problems))


def _refuse_conflicts(
    requested: "list[Config]",
    layout: str,
    *,
    out: Path | None,
    repo: str | None,
    check: bool,
    dry_run: bool,
) -> None:
    if out is not None and len(requested) > 1:
        raise click.UsageError("--out takes one export: pass --role and --format too.")
    if repo is not None and out is not None:
        raise click.UsageError("--push sends the exports inside the forest: leave out --out.")
    if layout != "trl" and (repo is not None or check):
        option = "--push sends" if repo is not None else "--check reads"
        raise click.UsageError(f"{option} exports in TRL's layout: leave out --layout.")
    if check and dry_run:
        raise click.UsageError("--check reads the rows written: leave out --dry-run.")


def _export(
    forest: "Forest",
    requested: "list[Config]",
    selection: "Selection",
    layout: str,
    out: Path | None,
    *,
    dry_run: bool,
) -> "list[ExportReport]":
    """Write the configs, or count their rows if `dry_run`; return their reports."""
    from malt_data.commands.progress import Progress
    from malt_data.exporters import export as exporting

    for item in requested:  # refuse what a tool cannot read before anything is written
        exporting.selected_for(layout, forest, item, selection)
    if dry_run:
        return [exporting.count(forest, item, selection, layout=layout) for item in requested]
    reports = []
    for item in requested:
        with Progress(item.name) as progress:
            told = progress.of("trees")
            reports.append(
                exporting.export(forest, item, selection, out, layout=layout, on_progress=told)
            )
    return reports


def _may_be_empty(
    config: "Config", roles: Sequence[str], role: str | None, form: str | None
) -> bool:
    """Return whether a config is only a baseline's and was not requested by name."""
    from malt_data.schemas.exports import recipe_configs

    return config not in recipe_configs(roles) and form is None and role in (None, "all")


def _checker(forest: "Forest", selection: "Selection") -> Callable[[Path], dict[str, Any]]:
    """Return a function that checks the rows in an export's folder."""
    from malt_data.exporters import check
    from malt_data.exporters.fit import load_fit

    fit = load_fit(selection.tokenizer or forest.manifest.spec.model or "", selection.max_length)
    leaks = check.gold_leaks(forest)
    return lambda folder: check.check(folder, fit, leaks)


@click.command()
@args_argument("[FOREST] USER/NAME", required=True)
@click.option(
    "--exports",
    help="Exports to send, e.g. refiner_dpo,verifier_sft, or none.  "
    "[default: existing ones, else those of export]",
)
@click.option("--revision", default="main", show_default=True, help="Branch, created if missing.")
@click.option("--private", is_flag=True, help="If the repo is new, make it private.")
@click.option("--tag", help="Tag the commit.")
@click.option(
    "--pr", "pull_request", is_flag=True, help="Open a pull request instead of committing."
)
@click.option("--replace", is_flag=True, help="Overwrite changes that others made to the repo.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent; send nothing.")
@json_option
def push(
    args: tuple[str, ...], exports: str | None, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Push a forest, its exports and a card to the Hub in one commit.

    \b
    malt-data push me/trees
    malt-data push my-forest me/trees --tag v1 --exports refiner_dpo
    """
    from malt_data.publish.push import push as push_forest

    if len(args) > 2:
        raise click.UsageError("Give [FOREST] USER/NAME.")
    names = None if exports is None else [n for n in exports.split(",") if n not in ("", "none")]
    opened = open_for_command(args[0] if len(args) == 2 else None)
    pushed = push_forest(opened, args[-1], exports=names, dry_run=dry_run, **options)
    if as_json:
        print_json(asdict(pushed))
    else:
        say(pushed.summary(dry_run))


@click.command()
@click.argument("name", metavar="USER/NAME[@REVISION]")
@click.option("--out", type=NewFolder(), help="Folder to download to.  [default: ./NAME]")
@json_option
def pull(name: str, out: Path | None, as_json: bool) -> None:
    """Download a forest and its exports from the Hub.

    \b
    malt-data pull me/trees@v1
    """
    from malt_data.publish.pull import pull as pull_forest

    folder = pull_forest(name, out)
    trees = len(open_for_command(str(folder)).done)
    if as_json:
        print_json({"forest": str(folder), "trees": trees})
    else:
        say(f"Downloaded {trees} trees to {folder}. Check them: malt-data verify {folder}")
