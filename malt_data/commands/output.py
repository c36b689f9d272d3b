"""Command output: results to stdout, notes to stderr, with control characters escaped."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from malt_data.display import escape, printable

if TYPE_CHECKING:
    from rich.console import Console


def say(text: str) -> None:
    """Print one line of the result to stdout."""
    click.echo(escape(text))


def note(text: str) -> None:
    """Print a one-line note to stderr."""
    click.echo(printable(text), err=True)


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def print_facts(facts: Mapping[str, Any], as_json: bool) -> None:
    """Print facts as JSON, or one per line."""
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
    """Print how many rows of a question source were refused, by reason."""
    for reason, count in refused.items():
        note(f"{count} questions refused: {reason}")


def console() -> "Console":
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


@contextmanager
def paged(console: "Console") -> Iterator["Console"]:
    """Send what is printed within to $PAGER if it is longer than the screen; never without one."""
    if not sys.stdout.isatty():
        yield console
        return
    with console.capture() as captured:
        yield console
    text = captured.get()
    lengths = map(len, click.unstyle(text).splitlines())
    lines = sum(max(1, -(-length // console.width)) for length in lengths)
    if lines < console.height or shutil.which(_pager()) is None:
        click.echo(text, nl=False, color=True)
    else:
        click.echo_via_pager(text)


def _pager() -> str:
    """Return the program that click will choose."""
    return (os.environ.get("PAGER") or "less").split()[0]
