"""The `malt-data` command: lists the subcommands and handles their errors.

    malt-data build --n 3
    malt-data sql "FROM role_stats"
    malt-data show

The FOREST argument is optional everywhere and defaults to $MALT_FOREST or ./forest. Commands
import heavy libraries when they run, so that `--help` is fast.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from malt_data.commands.build import build, relabel
from malt_data.commands.evaluate import ask, evaluate
from malt_data.commands.export import export, pull, push
from malt_data.commands.imports import import_
from malt_data.commands.query import explain, show, sql, stats, verify
from malt_data.commands.report import report
from malt_data.commands.train import train
from malt_data.display import printable
from malt_data.errors import MaltError, from_os_error

SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Grow": (build, import_, relabel),
    "Look": (stats, show, report, sql, explain, verify),
    "Share": (export, push, pull),
    "Train": (train, ask, evaluate),
}
"""Every command, in the sections that `--help` shows."""

_NOT_TEXT = re.compile("[\0\ud800-\udfff]")
"""NUL bytes, which end a C string, and the surrogates that stand for invalid UTF-8."""


class _Group(click.Group):
    """A group that prints errors as one line on stderr and sets the exit code."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        with _printable_usage_errors():
            for argument in args:
                if _NOT_TEXT.search(argument):
                    raise click.UsageError(f"{argument!r} contains NUL or is not valid UTF-8.")
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _printable_usage_errors():
                return super().invoke(ctx)
        except MaltError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:  # the reader (head, less) has quit
            sys.stderr.close()
            ctx.exit(0)
        except OSError as error:
            click.echo(f"Error: {from_os_error(error)}", err=True)
            ctx.exit(1)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section."""
        width = max(len(str(command.name)) for section in SECTIONS.values() for command in section)
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (str(command.name).ljust(width), command.get_short_help_str(limit=1000))
                        for command in section
                    ]
                )


@contextmanager
def _printable_usage_errors() -> Iterator[None]:
    """Escape control characters in click's own errors, which quote the arguments."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:  # its message is the help
        raise
    except click.UsageError as error:
        raise click.UsageError(printable(error.format_message()), error.ctx) from None


_COMPLETION = """
\b
Completion with TAB in bash; the README has zsh and fish:
  eval "$(_MALT_DATA_COMPLETE=bash_source malt-data)"
"""


@click.group(
    cls=_Group, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_COMPLETION
)
@click.version_option(package_name="malt-data", prog_name="malt-data")
def main() -> None:
    """Grow, grade, query and share multi-agent reasoning trees (MALT) as data.

    \b
    malt-data build --n 3               grow a forest in ./forest
    malt-data stats                     summarise each role
    malt-data show                      show one tree with values and labels
    malt-data sql "FROM pairs LIMIT 5"  query it with DuckDB

    Where a command takes a FOREST, the default is $MALT_FOREST or ./forest.
    """


for _section in SECTIONS.values():
    for _command in _section:
        main.add_command(_command)
