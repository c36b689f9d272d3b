"""Inspect a forest: `stats`, `show`, `sql`, `explain`, `verify`."""

import io
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from malt_data.commands.arguments import forest_and_ids, open_for_command
from malt_data.commands.options import args_argument, forest_argument, grader_option, json_option
from malt_data.commands.output import console, note, paged, print_json, say
from malt_data.commands.startup import import_meanwhile, start_quickly
from malt_data.display import clean
from malt_data.errors import ForestError, SpecError

if TYPE_CHECKING:
    import polars as pl

    from malt_data.forests.forest import Forest
    from malt_data.storage.query import Source


@click.command()
@args_argument("[FOREST] QUERY", required=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "jsonl", "parquet"]),
    help="Output format.  [default: table on a terminal, else csv]",
)
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
def sql(args: tuple[str, ...], form: str | None, as_json: bool) -> None:
    """Run a read-only DuckDB query on a forest or eval results.

    Views of a forest: questions, nodes, marked, roles, trees, trajectories, pairs, forest_stats,
    role_stats, judgements, verdicts, credit, confidence.

    Views of results: questions, completions, predictions, roles, accuracy, cost, turns, ballots,
    turn_accuracy, flips, votes, verdicts.

    \b
    malt-data sql "SELECT role, avg(value) FROM nodes GROUP BY role"
    malt-data sql results "FROM flips"
    malt-data sql my-forest "FROM pairs" --format parquet > pairs.parquet
    """
    from malt_data.commands.isolated import isolated
    from malt_data.schemas import layout

    if len(args) > 2:
        raise click.UsageError("Give [FOREST] QUERY, with the SQL in quotes.")
    start_quickly()
    folder = args[0] if len(args) == 2 else None
    is_results = folder is not None and (Path(folder) / layout.RESULTS).exists()
    source = _open_results(str(folder)) if is_results else open_for_command(folder)
    chosen = "json" if as_json else form or ("table" if sys.stdout.isatty() else "csv")
    sys.exit(isolated(lambda: _print_query(source, args[-1], chosen)))


def _open_results(folder: str) -> "Source":
    from malt_data.evaluation.results import open_results

    return open_results(folder)


def _print_query(source: "Source", query: str, form: str) -> None:
    from malt_data.storage.query import run_query

    if form == "parquet" and sys.stdout.isatty():
        raise SpecError("Parquet cannot be shown on a terminal. Redirect it: > rows.parquet")
    import_meanwhile("malt_data.report.terminal")
    table = run_query(source, query, printable=form != "parquet")
    import polars as pl

    from malt_data.report import terminal

    frame = pl.DataFrame(table)
    if form == "table":
        if left := terminal.print_rows(frame, console()):
            note(f"{left} more rows; use --format csv to see all of them.")
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
    """Summarise each role: labels, pairs, tokens, truncated texts.

    \b
    malt-data stats
    """
    start_quickly()
    from malt_data.forests.facts import stats as facts_of
    from malt_data.report.terminal import print_stats

    facts = facts_of(open_for_command(forest))
    if as_json:
        print_json(facts)
    else:
        print_stats(facts, console())


@click.command()
@args_argument("[FOREST] [ID]")
@click.option("--full", is_flag=True, help="Fold nothing, and show whole texts.")
@json_option
def show(args: tuple[str, ...], full: bool, as_json: bool) -> None:
    """Show one tree with its values, labels and texts.

    ID is the id of a question or node, or a prefix of one. The default is an
    instructive tree: with both labels among siblings in every turn, if there
    is one. In long trees, what repeats itself is folded. On a terminal, a
    tree longer than the screen goes through $PAGER.

    \b
    malt-data show
    malt-data show 5f3a/g0/v2
    malt-data show my-forest --full
    """
    start_quickly()
    from malt_data.forests.facts import find_tree, full_id
    from malt_data.report.tree import print_tree

    opened, ids = forest_and_ids(args, 1)
    tree = find_tree(opened, ids[0]) if ids else _instructive_tree(opened)
    marked = full_id(tree, ids[0]) if ids else None
    if as_json:
        print_json(tree.to_dicts())
        return
    with paged(console()) as terminal:
        width = 0 if full else max(20, terminal.width - 40)
        hidden = print_tree(opened, tree, terminal, marked=marked, width=width, folded=not full)
    if hidden:
        note(f"{hidden} of {len(tree)} nodes folded; --full shows them, and whole texts.")


def _instructive_tree(forest: "Forest") -> "pl.DataFrame":
    """Return the tree to show if none is named, and say on stderr which one and why."""
    from malt_data.forests.facts import find_tree
    from malt_data.forests.instructive import instructive_tree
    from malt_data.schemas.layout import default_folder

    choice = instructive_tree(forest)
    if choice is None:
        return find_tree(forest, None)  # which says what to do
    note(f"Tree {choice.question_id}: {choice.reason()}.")
    if choice.another is not None:
        folder = forest.origin or str(forest.folder)
        given = [] if folder == str(default_folder()) else [folder]
        note(f"Another one: {shlex.join(['malt-data', 'show', *given, choice.another])}")
    return forest.parts.tree(choice.part, choice.question_id).sort("node")


@click.command()
@args_argument("[FOREST] ID [ID]", required=True)
@json_option
def explain(args: tuple[str, ...], as_json: bool) -> None:
    """Trace a label back to the samples and values behind it.

    ID is a node_id; for a dpo row, give its chosen_id and rejected_id. Shows the path to the node,
    its text, its leaves, and whether each export includes it.

    \b
    malt-data explain 5f5d63edee44763e/g0/v2
    """
    start_quickly()
    from malt_data.exporters.explain import explain as explain_node
    from malt_data.report.exports import print_explained

    opened, ids = forest_and_ids(args, 2)
    if not ids:
        raise click.UsageError("Give the id of a node, e.g. one from malt-data show.")
    facts = explain_node(opened, *ids)
    if as_json:
        print_json(facts)
    else:
        print_explained(facts, console(), pair=len(ids) > 1)


@click.command()
@forest_argument
@grader_option("The function that graded the forest, to run it again; else it is not run.")
@json_option
def verify(forest: str | None, grader: str | None, as_json: bool) -> None:
    """Check a forest and its exports by recomputing them.

    FOREST may also be the folder of a single export.

    \b
    malt-data verify my-forest
    malt-data verify my-forest/exports/refiner_dpo
    """
    from malt_data.exporters.verify import verify_export
    from malt_data.schemas import layout

    if forest is not None and (Path(forest) / layout.EXPORT).exists():
        problems, summary = verify_export(forest), f"{forest} is sound."
    else:
        forest, problems, summary = _verify_forest(forest, grader)
    if as_json:
        print_json({"forest": forest, "problems": problems})
    else:
        for problem in problems:
            say(problem)
    if problems:
        raise ForestError(f"{forest} has {len(problems)} problems, listed above.")
    if not as_json:
        say(summary)


def _verify_forest(folder: str | None, grader: str | None) -> tuple[str, list[str], str]:
    """Return a forest's folder, its problems, and the line to print if there are none."""
    from malt_data.commands.progress import Progress
    from malt_data.exporters.export import export_names
    from malt_data.exporters.verify import verify_export
    from malt_data.forests.verify import verify as verify_forest
    from malt_data.schemas import layout

    forest = open_for_command(folder)
    with Progress("verify") as progress:
        problems = verify_forest(forest, progress.of("parts"), grader=grader, note=progress.note)
    exports = [] if forest.origin else export_names(forest)
    for name in exports:
        found = verify_export(forest.folder / layout.EXPORTS / name)
        problems += [f"{layout.EXPORTS}/{name}: {problem}" for problem in found]
    counts = f"{len(forest.done)} trees" + (f", exports: {len(exports)}" if exports else "")
    return str(forest.folder), problems, f"{forest.folder} is sound: {counts}."
