"""Forests as arguments: `[FOREST] …`, open for as long as the command runs."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from malt_data.forests.forest import Forest


def open_for_command(folder: str | None) -> "Forest":
    """Open a forest for reading, which no other process may rewrite until the command ends."""
    from malt_data.forests.forest import open_forest

    forest = open_forest(folder)
    click.get_current_context().with_resource(forest.reading())
    return forest


def forest_and_ids(args: tuple[str, ...], most: int) -> "tuple[Forest, tuple[str, ...]]":
    """Tell `[FOREST] [ID …]` apart: the first is a forest where one is there, or on the Hub."""
    from malt_data.forests.forest import is_forest

    named = bool(args) and (len(args) > most or is_forest(args[0]))
    if len(args) > most + named:
        raise click.UsageError(f"Give [FOREST] and at most {most} ids.")
    return open_for_command(args[0] if named else None), args[named:]
