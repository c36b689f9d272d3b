"""The command line: the group, its errors, a line a command.

    malt-data build --n 3
    malt-data sql "FROM role_stats"
    malt-data show

FOREST may be left out everywhere: then it is $MALT_FOREST or ./forest. Heavy libraries are
imported inside the commands, so that `--help` answers at once.
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
from malt_data.commands.query import explain, show, sql, stats, verify
from malt_data.commands.train import train
from malt_data.display import printable
from malt_data.errors import MaltError, of_system

SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Grow": (build, relabel),
    "Look": (stats, show, sql, explain, verify),
    "Share": (export, push, pull),
    "Train": (train, ask, evaluate),
}
"""Every command, by what people do."""

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""What no argument can be used with: the end of a C string, bytes that are not UTF-8."""


class _Group(click.Group):
    """Turns our errors into one sentence on stderr and an exit code, in one place."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        with _fit_for_a_terminal():
            for argument in args:
                if _NO_TEXT.search(argument):
                    raise click.UsageError(f"{argument!r} holds a NUL or is not UTF-8.")
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _fit_for_a_terminal():
                return super().invoke(ctx)
        except MaltError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:  # the reader (head, less) had enough
            sys.stderr.close()
            ctx.exit(0)
        except OSError as error:
            click.echo(f"Error: {of_system(error)}", err=True)
            ctx.exit(1)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section."""
        widest = max(len(str(one.name)) for section in SECTIONS.values() for one in section)
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (str(one.name).ljust(widest), one.get_short_help_str(formatter.width))
                        for one in section
                    ]
                )


@contextmanager
def _fit_for_a_terminal() -> Iterator[None]:
    """Clean click's own errors, which quote what was typed, as ours are."""
    try:
        yield
    except click.UsageError as error:
        raise click.UsageError(printable(error.format_message()), error.ctx) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="malt-data", prog_name="malt-data")
def main() -> None:
    """Grow, grade, query and share multi-agent reasoning trees (MALT) as data.

    \b
    malt-data build --n 3              grow a forest in ./forest
    malt-data stats                    the health of each role
    malt-data show                     one tree, with values and labels
    malt-data sql "FROM pairs LIMIT 5" DuckDB over questions, nodes, pairs, …
    """


for _section in SECTIONS.values():
    for _command in _section:
        main.add_command(_command)
