"""`import`: a forest from completions that something else sampled."""

from pathlib import Path
from typing import Any

import click

from malt_data.commands.options import (
    FILE,
    NewFolder,
    drop_unset,
    grader_option,
    json_option,
    pipeline_option,
    read_config,
    setting,
)
from malt_data.commands.output import note, note_refused, print_json, say


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option(
    "--out", type=NewFolder(), help="New folder of the forest.  [default: $MALT_FOREST or ./forest]"
)
@pipeline_option("The turns, if their roles do not tell: a shipped pipeline or a TOML file.")
@click.option(
    "--prompts", "prompts_file", type=FILE, help="TOML file with the prompts that were used."
)
@setting("--model", help="Model of the completions whose rows name none.")
@setting("--split", help="Split of the questions whose rows name none.  [default: train]")
@grader_option()
@click.option(
    "--config",
    type=FILE,
    help="TOML file with any of these settings, plus kind, threshold, pooling, and the tables "
    "fields and roles, which say what the files call them.",
)
@click.option("--dry-run", is_flag=True, help="Show what was found; grade and write nothing.")
@json_option
def import_(
    files: tuple[Path, ...],
    out: Path | None,
    prompts_file: Path | None,
    config: Path | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Import completions that something else sampled as a forest.

    FILE is rows of completions (.jsonl, .json, .parquet), the traces.jsonl of
    verifiers, or a .eval log of inspect. They are graded and labelled like
    those of a build. See docs/import.md.

    \b
    malt-data import rollouts.jsonl --out forest
    malt-data import run/traces.jsonl --pipeline critic.toml --out forest
    malt-data import logs/a.eval logs/b.eval --split test --out forest
    malt-data import rows.jsonl --config fields.toml --prompts prompts.toml \\
        --model Qwen/Qwen3-4B
    """
    from malt_data.commands.progress import Progress
    from malt_data.importers.importing import import_forest
    from malt_data.schemas.layout import default_folder
    from malt_data.schemas.spec import ImportSpec

    folder = out or default_folder()
    spec = ImportSpec(**{**read_config(config), **drop_unset(options)})
    with Progress("import") as progress:
        report = import_forest(
            files,
            folder,
            spec,
            prompts_file=prompts_file,
            dry_run=dry_run,
            on_progress=progress.of("trees"),
            note=progress.note,
        )
    if as_json:
        print_json({"forest": str(folder), "dry_run": dry_run, **report.to_dict()})
    else:
        say(report.summary(folder, dry_run=dry_run))
    for reason, count in report.left_out.items():
        note(f"{count} completions left out: {reason}")
    note_refused(report.refused)
