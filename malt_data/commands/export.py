"""Sharing: `export` training sets, `push` and `pull` a forest with them."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from malt_data.commands.opened import open_for_command
from malt_data.commands.options import (
    FILE,
    LateChoice,
    NewFolder,
    forest_argument,
    given,
    json_option,
    read_config,
    role_option,
    setting,
)
from malt_data.commands.output import console, print_json, say
from malt_data.errors import ExportError

if TYPE_CHECKING:
    from malt_data.exporters.selection import Selection
    from malt_data.forests.forest import Forest
    from malt_data.schemas.exports import Config


def _formats() -> tuple[str, ...]:
    from malt_data.schemas.exports import FORMATS

    return tuple(FORMATS)


def _strategies() -> tuple[str, ...]:
    from malt_data.exporters.selection import Strategy

    return get_args(Strategy)


def _positives() -> tuple[str, ...]:
    from malt_data.exporters.selection import Positives

    return get_args(Positives)


@click.command()
@forest_argument
@role_option("Whose texts are learnt.  [default: all]")
@click.option(
    "--format",
    "form",
    type=LateChoice(_formats),
    help="What TRL is to read.  [default: sft and dpo]",
)
@click.option("--out", type=NewFolder(), help="Folder.  [default: FOREST/exports/ROLE_FORMAT]")
@setting("--strategy", type=LateChoice(_strategies), help="Pairs a parent.")
@setting("--margin", type=float, help="Least difference of a pair's values.")
@setting(
    "--positives",
    type=LateChoice(_positives),
    help="paired: with a negative sibling (MALT §4.3); mixed: of questions with negatives.",
)
@setting("--max-per-parent", type=int, help="Rows a parent.")
@setting("--max-per-question", type=int, help="Rows a question.")
@setting("--validation", type=float, help="Share of the questions.  [default: 0.1]")
@setting("--seed", type=int, help="Seed of all random choices and the split.  [default: 0]")
@click.option(
    "--config",
    type=FILE,
    help="TOML file with any of these settings, and keep_ungraded, keep_truncated, "
    "keep_identical, drop_duplicates.",
)
@setting("--tokenizer", help="Leave out rows that this model cannot take.")
@setting("--max-length", type=int, help="Leave out rows of more tokens.")
@click.option(
    "--check",
    is_flag=True,
    help="Try the rows on the chat template (of --tokenizer, or of the forest's model).",
)
@click.option("--push", "repo", metavar="USER/NAME", help="Push forest and exports to the Hub.")
@click.option("--dry-run", is_flag=True, help="Only count what would be written and left out.")
@json_option
def export(
    forest: str | None,
    role: str | None,
    form: str | None,
    out: Path | None,
    config: Path | None,
    check: bool,
    repo: str | None,
    dry_run: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write training sets that TRL reads as they are.

    \b
    malt-data export --role refiner --format dpo
    malt-data export --check           all that train reads, on the template
    malt-data export --role verifier --format dpo --strategy one --push me/t
    """
    from malt_data.commands.progress import Steps
    from malt_data.exporters import export as exporting
    from malt_data.exporters.selection import Selection
    from malt_data.report.exports import print_export
    from malt_data.schemas.exports import configs

    opened = open_for_command(forest)
    wanted = configs(role, form)
    if out is not None and len(wanted) > 1:
        raise click.UsageError("--out takes one dataset: give --role and --format too.")
    if repo is not None and out is not None:
        raise click.UsageError("--push sends the forest's own exports: leave out --out.")
    selection = Selection(**read_config(config) | given(settings))
    if check and dry_run:
        raise click.UsageError("--check looks at the rows written: leave out --dry-run.")
    checker = _checker(opened, selection) if check else None
    reports = []
    for each in wanted:
        if dry_run:
            reports.append(exporting.count(opened, each, selection))
            continue
        with Steps(each.name) as steps:
            reports.append(exporting.export(opened, each, selection, out, on_progress=steps.update))
    facts = {report.config: report.model_dump(mode="json") for report in reports}
    problems: list[str] = []
    if checker is not None:
        for each in wanted:
            found = checker(exporting.place(opened, each, out))
            if _is_extra(each, role, form) and not found["rows"]:
                found["problems"] = []
            facts[each.name]["check"] = found
            problems += found["problems"]
    pushed = None
    if repo is not None and not dry_run and not problems:
        from malt_data.publish.push import push as push_forest

        pushed = push_forest(opened, repo)
        facts["push"] = asdict(pushed)
    if as_json:
        print_json(facts)
    else:
        for each, report in zip(wanted, reports, strict=True):
            folder = None if dry_run else exporting.place(opened, each, out)
            print_export(report, folder, facts[each.name].get("check"), console())
        if pushed is not None:
            say(pushed.summary())
    if problems:
        raise ExportError("This would break training: " + " ".join(problems))


def _is_extra(config: "Config", role: str | None, form: str | None) -> bool:
    """Tell whether a config is a baseline's, which may have no rows where nobody asked for it."""
    from malt_data.schemas.exports import RECIPE

    return config not in RECIPE and form is None and role in (None, "all")


def _checker(forest: "Forest", selection: "Selection") -> Callable[[Path], dict[str, Any]]:
    from malt_data.exporters import check
    from malt_data.exporters.fit import load_fit

    fit = load_fit(selection.tokenizer or forest.manifest.spec.model or "", selection.max_length)
    leaks = check.gold_leaks(forest)
    return lambda folder: check.check(folder, fit, leaks)


@click.command()
@click.argument("args", nargs=-1, required=True, metavar="[FOREST] USER/NAME")
@click.option(
    "--exports",
    help="Configs, e.g. refiner_dpo,verifier_sft; none.  [default: those there, or export's]",
)
@click.option("--revision", default="main", show_default=True, help="Branch; created if new.")
@click.option("--private", is_flag=True, help="Make a new repo private.")
@click.option("--tag", help="Name what was pushed.")
@click.option(
    "--pr", "pull_request", is_flag=True, help="Open a pull request instead of committing."
)
@click.option("--replace", is_flag=True, help="Overwrite what others changed there.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent.")
@json_option
def push(
    args: tuple[str, ...], exports: str | None, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Send forest, exports and card to the Hub as one commit.

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
@click.option("--out", type=NewFolder(), help="[default: ./NAME]")
@json_option
def pull(name: str, out: Path | None, as_json: bool) -> None:
    """Fetch a forest and its exports from the Hub.

    \b
    malt-data pull me/trees@v1
    """
    from malt_data.publish.pull import pull as pull_forest

    folder = pull_forest(name, out)
    trees = len(open_for_command(str(folder)).done)
    if as_json:
        print_json({"forest": str(folder), "trees": trees})
    else:
        say(f"{trees} trees in {folder}. Check them: malt-data verify {folder}")
