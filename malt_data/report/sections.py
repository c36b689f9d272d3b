"""The tables of a page, each with the SQL that gives the same numbers.

section(forest, "roles", "Roles", "FROM role_stats")
# {"id": "roles", "title": "Roles", "query": "FROM role_stats", "columns": [...], "rows": [...]}
"""

import math
from importlib import resources
from typing import Any, Protocol

import polars as pl


class Queryable(Protocol):
    """A forest or results."""

    def sql(self, query: str) -> pl.DataFrame: ...


def section(source: Queryable, name: str, title: str, query: str) -> dict[str, Any]:
    """Return what a page shows of a query's rows; numbers are those of the query."""
    return table(name, title, source.sql(query), query=query)


def table(
    name: str, title: str, frame: pl.DataFrame, *, query: str | None = None
) -> dict[str, Any]:
    """Return a table of a page. query: what gives it; None if no SQL does."""
    rows = [[_plain(value) for value in row] for row in frame.rows()]
    return {"id": name, "title": title, "query": query, "columns": frame.columns, "rows": rows}


def query(name: str) -> str:
    """Return the SQL of a file in `queries`, without its opening comment."""
    text = (resources.files(__package__) / "queries" / f"{name}.sql").read_text("utf-8")
    return "\n".join(line for line in text.splitlines() if not line.startswith("--"))


def listed(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return settings as (name, text), tables in them as `engine options.dtype`; null ones not."""
    found: list[tuple[str, str]] = []
    for name, value in settings.items():
        path = prefix + name.replace("_", " ")
        if isinstance(value, dict):
            found += listed(value, f"{path}.")
        elif value not in (None, []):
            found.append((path, str(value).lower() if isinstance(value, bool) else str(value)))
    return found


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
