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
from malt_data.schemas.forest import NAME, NODES, QUESTIONS, SCHEMA_KEY, VERSION


def _to_2(table: pa.Table) -> pa.Table:
    """Add `cluster` to questions; replace the ordinals `g`, `v` and `r` of nodes by their place.

    A table of nodes must hold whole trees.
    """
    if "gold" in table.column_names:
        table = table.append_column("cluster", pa.nulls(table.num_rows, pa.string()))
        return table.select([name for name in QUESTIONS.names if name in table.column_names])
    if "g" not in table.column_names:
        return table
    import polars as pl

    nodes = pl.DataFrame(table.replace_schema_metadata(None)).with_row_index("row")
    path = ["question_id", "g", "v", "r"]
    tree = pl.int_range(pl.len(), dtype=pl.Int32).over("question_id")
    nodes = nodes.sort(path, nulls_last=False).with_columns(node=tree)
    above = nodes.select(*path, parent="node", depth=pl.col("depth") + 1)
    keys = {2: path[:2], 3: path[:3]}
    levels = [nodes.filter(pl.col("depth") == 1).with_columns(parent=pl.lit(None, pl.Int32))]
    levels += [
        nodes.filter(pl.col("depth") == depth).join(
            above.filter(pl.col("depth") == depth).select(*key, "parent"), on=key, how="left"
        )
        for depth, key in keys.items()
    ]
    nodes = (
        pl.concat(levels)
        .sort("row")
        .with_columns(
            thinking=pl.lit(None, pl.String),
            extra=pl.lit(False),
            cached_tokens=pl.lit(None, pl.Int32),
        )
    )
    fields = [NODES.field(name) for name in NODES.names if name in nodes.columns]
    upgraded = nodes.select([field.name for field in fields]).to_arrow()
    return upgraded.cast(pa.schema(fields, metadata=table.schema.metadata))


_NEW_IN_2 = {"cluster", "node", "parent", "thinking", "extra", "cached_tokens"}


def require_columns(found: pa.Schema, schema: pa.Schema, version: int) -> None:
    """Raise ValueError unless a file has the columns of `schema` as `version` had them.

    schema: NODES or QUESTIONS. More columns are welcome.
    """
    if version == VERSION and found.equals(schema):
        return
    expected = [field for field in schema if version >= 2 or field.name not in _NEW_IN_2]
    if version < 2 and schema is NODES:
        expected += [pa.field(name, pa.int16()) for name in "gvr"]
    if version < 2 and (newer := _NEW_IN_2 & {*found.names}):
        raise ValueError(f"column {min(newer)!r} is not in {NAME}/{version}")
    for field in expected:
        if found.names.count(field.name) != 1:
            raise ValueError(f"there must be one column {field.name!r}")
        column = found.field(field.name)
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if column.type not in (field.type, plain):
            raise ValueError(f"column {field.name!r} is {column.type}, not {field.type}")
        if column.nullable and not field.nullable:
            raise ValueError(f"column {field.name!r} may be null")


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
