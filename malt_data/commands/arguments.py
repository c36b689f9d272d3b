"""The `[FOREST] [ID …]` arguments that several commands share."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from malt_data.forests.forest import Forest


def open_for_command(folder: str | None) -> "Forest":
    """Open a forest for reading and keep other processes from rewriting it until the command ends.

    None opens the default forest.
    """
    from malt_data.forests.forest import open_forest

    forest = open_forest(folder)
    click.get_current_context().with_resource(forest.reading())
    return forest


def forest_and_ids(args: tuple[str, ...], max_ids: int) -> "tuple[Forest, tuple[str, ...]]":
    """Split `[FOREST] [ID …]`; the first argument is FOREST if a forest exists there."""
    from malt_data.forests.forest import is_forest

    has_forest = bool(args) and (len(args) > max_ids or is_forest(args[0]))
    if len(args) > max_ids + has_forest:
        raise click.UsageError(f"Give [FOREST] and at most {max_ids} ids.")
    return open_for_command(args[0] if has_forest else None), args[has_forest:]
