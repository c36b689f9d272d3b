"""What commands print: facts to stdout, notes to stderr, all of it fit for a terminal."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from malt_data.display import escape, printable

if TYPE_CHECKING:
    from rich.console import Console


def say(text: str) -> None:
    """Print a fact, on one line."""
    click.echo(escape(text))


def note(text: str) -> None:
    """Print what is no fact, on one line, to stderr."""
    click.echo(printable(text), err=True)


def print_json(facts: object) -> None:
    click.echo(json.dumps(facts, indent=2))


def print_facts(facts: Mapping[str, Any], as_json: bool) -> None:
    """Print facts as JSON, or a line each."""
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        say(f"{name.replace('_', ' ')}: {value}")


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    import polars as pl

    from malt_data.report.terminal import print_rows

    print_rows(pl.DataFrame(list(rows)), console())


def note_refused(refused: Mapping[str, int]) -> None:
    """Say how many rows of a source are no questions, and why."""
    for reason, count in refused.items():
        note(f"{count} questions refused: {reason}")


def console() -> "Console":
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)
