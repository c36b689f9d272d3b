"""Read any released schema version as the newest one.

Every Parquet file has its version in the footer (`malt.schema = forest/2`). Files of older versions
are upgraded step by step when read; files of newer versions or other formats are refused.

    >>> check("forest/1", "nodes/part-0.parquet")
    1
"""

import re
from collections.abc import Callable

import pyarrow as pa

from malt_data.errors import ForestError
from malt_data.schemas.forest import NAME, QUESTIONS, SCHEMA_KEY, VERSION


def _to_2(table: pa.Table) -> pa.Table:
    """Add the column `cluster` to `questions`."""
    if "gold" not in table.column_names:
        return table
    table = table.append_column("cluster", pa.nulls(table.num_rows, pa.string()))
    return table.select([name for name in QUESTIONS.names if name in table.column_names])


UPGRADES: dict[int, Callable[[pa.Table], pa.Table]] = {1: _to_2}
"""UPGRADES[n] turns a table of version n into one of version n + 1."""


def stamp_of(schema: pa.Schema) -> str | None:
    """Return the version in a file's metadata, e.g. `forest/1`; None if there is none."""
    value = (schema.metadata or {}).get(SCHEMA_KEY)
    return None if value is None else value.decode("utf-8", "replace")


def check(stamp: str | None, where: str) -> int:
    """Return the version number in `stamp`; raise ForestError if this code cannot read it."""
    name, _, number = stamp.partition("/") if isinstance(stamp, str) else ("", "", "")
    if name != NAME or not re.fullmatch("[0-9]{1,9}", number):
        raise ForestError(
            f"{where} is not a part of a forest: its malt.schema is {str(stamp)[:40]!r}, expected "
            f"'{NAME}/{VERSION}'. Move it out of the folder."
        )
    if not 1 <= int(number) <= VERSION:
        raise ForestError(
            f"{where} has schema {stamp}, but this malt-data reads up to {NAME}/{VERSION}. "
            "Upgrade malt-data: pip install -U malt-data"
        )
    return int(number)


def upgrade(table: pa.Table, where: str) -> pa.Table:
    """Upgrade `table` to the newest version."""
    for version in range(check(stamp_of(table.schema), where), VERSION):
        table = UPGRADES[version](table)
    return table
