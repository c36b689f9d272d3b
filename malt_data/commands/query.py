"""Looking: `stats`, `show`, `sql`, `explain`, `verify`."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from malt_data.commands.opened import forest_and_ids, open_for_command
from malt_data.commands.options import LateChoice, forest_argument, json_option
from malt_data.commands.output import console, note, print_json, say
from malt_data.display import clean
from malt_data.errors import ForestError, SpecError

if TYPE_CHECKING:
    from malt_data.storage.query import Source


def _row_formats() -> tuple[str, ...]:
    from malt_data.report.terminal import ROW_FORMATS

    return ("table", *ROW_FORMATS)


@click.command()
@click.argument("args", nargs=-1, required=True, metavar="[FOREST] QUERY")
@click.option(
    "--format",
    "form",
    type=LateChoice(_row_formats),
    help="[default: table on a terminal, else csv]",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def sql(args: tuple[str, ...], form: str | None, as_json: bool) -> None:
    """Run a read-only DuckDB query over a forest or results.

    Views: questions, nodes, trajectories, pairs, role_stats, verdicts; of results: questions,
    completions, predictions, accuracy, cost, turns, ballots, turn_accuracy, flips, votes, verdicts.

    \b
    malt-data sql "SELECT role, avg(value) FROM nodes GROUP BY role"
    malt-data sql results "FROM flips"
    malt-data sql my-forest "FROM pairs" --format parquet > pairs.parquet
    """
    from malt_data.evaluation.results import open_results
    from malt_data.schemas import layout
    from malt_data.storage.query import isolated

    if len(args) > 2:
        raise click.UsageError("Give [FOREST] QUERY; put the SQL in quotes.")
    named = args[0] if len(args) == 2 else None
    is_results = named is not None and (Path(named) / layout.RESULTS).exists()
    opened: Source = open_results(str(named)) if is_results else open_for_command(named)
    chosen = "json" if as_json else form or ("table" if sys.stdout.isatty() else "csv")
    sys.exit(isolated(lambda: _print_query(opened, args[-1], chosen)))


def _print_query(source: "Source", query: str, form: str) -> None:
    import polars as pl

    from malt_data.report import terminal
    from malt_data.storage.query import run_query

    if form == "parquet" and sys.stdout.isatty():
        raise SpecError("Parquet is not for the terminal; send it to a file: > rows.parquet")
    frame = pl.DataFrame(run_query(source, query, printable=form != "parquet"))
    if form == "table":
        if left := terminal.print_rows(frame, console()):
            note(f"{left} more rows; --format csv shows all.")
    elif sys.stdout.isatty():
        rows = io.BytesIO()
        terminal.write_rows(frame, form, rows)
        click.echo(clean(rows.getvalue().decode()), nl=False)
    else:
        terminal.write_rows(frame, form, sys.stdout.buffer)


@click.command()
@forest_argument
@json_option
def stats(forest: str | None, as_json: bool) -> None:
    """Show the health of each role: labels, pairs, tokens, cut-offs.

    \b
    malt-data stats
    """
    from malt_data.forests.facts import stats as facts_of
    from malt_data.report.terminal import print_stats

    facts = facts_of(open_for_command(forest))
    if as_json:
        print_json(facts)
    else:
        print_stats(facts, console())


@click.command()
@click.argument("args", nargs=-1, metavar="[FOREST] [ID]")
@click.option("--full", is_flag=True, help="Do not fold long texts.")
@json_option
def show(args: tuple[str, ...], full: bool, as_json: bool) -> None:
    """Show one tree, with values, labels and texts.

    ID is the id of a question or a node, or its start; without one the first tree is shown.

    \b
    malt-data show
    malt-data show 5f3a/g0/v2
    """
    from malt_data.forests.facts import find_tree
    from malt_data.report.terminal import show as print_tree

    opened, names = forest_and_ids(args, 1)
    name = names[0] if names else None
    if as_json:
        print_json(find_tree(opened, name).to_dicts())
    else:
        screen = console()
        print_tree(opened, name, screen, 0 if full else max(20, screen.width - 40))


@click.command()
@click.argument("args", nargs=-1, required=True, metavar="[FOREST] ID [ID]")
@json_option
def explain(args: tuple[str, ...], as_json: bool) -> None:
    """Prove a row: the samples and values behind its label.

    Give a node_id, or the chosen_id and rejected_id of a dpo row. Shown are its path, the texts,
    the leaves under it, and what each export made of it.

    \b
    malt-data explain 5f5d63edee44763e/g0/v2
    """
    from malt_data.exporters.explain import explain as prove
    from malt_data.report.exports import print_explained

    opened, ids = forest_and_ids(args, 2)
    if not ids:
        raise click.UsageError("Give the id of a node, e.g. from malt-data show.")
    facts = prove(opened, *ids)
    if as_json:
        print_json(facts)
    else:
        print_explained(facts, console())


@click.command()
@forest_argument
@json_option
def verify(forest: str | None, as_json: bool) -> None:
    """Check a forest and its exports: all is recomputed.

    FOREST may also be the folder of one export.

    \b
    malt-data verify my-forest
    malt-data verify my-forest/exports/refiner_dpo
    """
    from malt_data.commands.progress import Steps
    from malt_data.exporters.export import exports_of
    from malt_data.exporters.verify import verify_export
    from malt_data.forests.verify import verify as problems_of
    from malt_data.schemas import layout

    if forest is not None and (Path(forest) / layout.EXPORT).exists():
        problems, sound = verify_export(forest), f"{forest} is sound."
    else:
        opened = open_for_command(forest)
        with Steps("verify") as steps:
            forest, problems = str(opened.folder), problems_of(opened, steps.update)
        exports = {} if opened.origin else exports_of(opened)
        for name in exports:
            found = verify_export(opened.folder / layout.EXPORTS / name)
            problems += [f"{layout.EXPORTS}/{name}: {problem}" for problem in found]
        also = f", {len(exports)} exports" if exports else ""
        sound = f"{forest} is sound: {len(opened.done)} trees{also}."
    if as_json:
        print_json({"forest": forest, "problems": problems})
    else:
        for problem in problems:
            say(problem)
    if problems:
        raise ForestError(f"{forest} has {len(problems)} problems, listed above.")
    if not as_json:
        say(sound)
