"""Read-only, sandboxed SQL on a forest or on results.

DuckDB gets no file access: `allowed_directories` would also allow writing, and a COPY can hide
inside a WITH. The Parquet files are registered as Arrow datasets, then external access is disabled
and the configuration locked. This makes `LIMIT 10` slower; full scans take the same time.

A hostile query can still exhaust memory (`repeat('x', 3000000000)` ignores DuckDB's limit), so the
command line runs queries in a child process with a memory limit (commands/isolated.py).
"""

import re
from collections.abc import Callable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol

import duckdb
import pyarrow as pa

from malt_data.errors import QueryError

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "temp_directory": "",
    "memory_limit": "8GB",
}


_MACROS = "judgement"
"""The view file that holds macros."""
_LISTS = re.compile(r"\b(show|information_schema|(duckdb|pg|sqlite|pragma)_\w+)\b", re.IGNORECASE)
"""What may list tables, views and macros."""
_NESTED = {"list", "array", "struct", "tuple"}
_PRINTABLE = {
    "boolean", "tinyint", "smallint", "integer", "bigint", "hugeint", "utinyint", "usmallint",
    "uinteger", "ubigint", "float", "double", "decimal", "varchar", "enum", "uuid", "null",
}  # fmt: skip
_TEMPORAL = {
    "date", "time", "time_ns", "timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns",
    "timestamp with time zone", "blob",
}  # fmt: skip


class Source(Protocol):
    """What can be queried: tables, and the views of schemas/views/*.sql that build on them.

    A view may be in a subfolder to avoid a name clash: `results/verdicts` defines `verdicts`.
    """

    views: tuple[str, ...]

    def tables(self) -> "dict[str, ds.Dataset]":
        """Return the tables by name."""
        ...

    def computed(self) -> dict[str, Callable[[], pa.Table]]:
        """Return what computes the tables that are too costly for queries that do not need them."""
        ...

    def view(self, name: str) -> str:
        """Return the SQL that creates a view; `read_view`, unless it depends on the source."""
        ...


def read_view(name: str) -> str:
    """Return the SQL of a view in schemas/views."""
    return resources.files("malt_data.schemas").joinpath("views", f"{name}.sql").read_text("utf-8")


def connect(
    source: Source, query: str = "", *, every_view: bool = False
) -> duckdb.DuckDBPyConnection:
    """Return a connection that can read the tables and views of `source` and nothing else.

    query: computed tables are there only if it names them. every_view: also the views that it does
    not seem to need.
    """
    connection = duckdb.connect(":memory:", config=_CONFIG)
    for name, table in source.tables().items():
        connection.register(name, table)
    for name, compute in source.computed().items():
        if re.search(rf"\b{name}\b", query, re.IGNORECASE):
            connection.register(name, compute())
    views = _views(source)
    _create_views(connection, [*views.values()] if every_view else _needed(views, source, query))
    lock_down(connection)
    return connection


def _views(source: Source) -> dict[str, str]:
    """Return the SQL of the views by name, and that of the macros."""
    views = {name.rpartition("/")[2]: source.view(name) for name in source.views}
    return {_MACROS: read_view(_MACROS)} | views


def _needed(views: dict[str, str], source: Source, query: str) -> list[str]:
    """Return the SQL of the views that a query names, and of those that they build on.

    All if it may list what there is. Planning all views takes longer than finding a node by its id.
    """
    named = _words(query)
    if not named & {*views, *source.tables(), *source.computed()} or _LISTS.search(query):
        return [*views.values()]
    needed: set[str] = set()
    while named := {name for name in named if name in views} - needed:
        needed |= named
        named = set().union(*(_words(views[name]) for name in named))
    return [sql for name, sql in views.items() if name in needed]


def _words(sql: str) -> set[str]:
    return set(re.findall(r"\w+", sql.lower()))


def _create_views(connection: duckdb.DuckDBPyConnection, missing: list[str]) -> None:
    """Create views that build on each other, in whatever order they are listed."""
    while missing:
        waiting: list[str] = []
        for sql in missing:
            try:
                connection.execute(sql)
            except duckdb.CatalogException:  # builds on one that is not there yet
                if len(missing) == len(waiting) + 1:
                    raise
                waiting.append(sql)
        missing = waiting


def lock_down(connection: duckdb.DuckDBPyConnection) -> None:
    """Let a connection read what is registered and nothing else, without a progress bar.

    In a notebook without ipywidgets the bar is off, and DuckDB rejects the setting.
    """
    shown = connection.execute("SELECT current_setting('enable_progress_bar')").fetchall()
    if shown == [(True,)]:
        connection.execute("SET enable_progress_bar = false")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def run_query(
    source: Source, query: str, parameters: Sequence[Any] = (), *, printable: bool = False
) -> pa.Table:
    """Return the rows of one query; raise QueryError if it fails.

    If two columns are named `text`, the second becomes `text_1`. Columns of a type that polars
    lacks (INTERVAL, MAP, BIT, …) are cast to DuckDB's text. printable: cast dates, times and blobs
    too, because DuckDB has values of these types that Python and polars cannot print.
    """
    supported = _PRINTABLE if printable else _PRINTABLE | _TEMPORAL
    try:
        try:
            return _rows(connect(source, query), query, parameters, supported)
        except duckdb.CatalogException:  # a wrong name, or one that the query puts together
            whole = connect(source, query, every_view=True)
            return _rows(whole, query, parameters, supported)
    except duckdb.Error as error:
        raise QueryError(_explain(error, source)) from None
    except (MemoryError, pa.ArrowException, UnicodeError) as error:
        raise QueryError(f"The SQL failed: {error or 'out of memory'}.") from None


def _rows(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    parameters: Sequence[Any],
    supported: set[str],
) -> pa.Table:
    """Return the rows of one query, and close the connection."""
    with connection:
        relation = connection.sql(query, params=list(parameters) or None)
        if relation is None:
            raise QueryError("The SQL is not a query. Write one, e.g. FROM role_stats")
        relation = relation.select("*")  # DuckDB renames duplicate columns
        columns = zip(relation.columns, relation.types, strict=True)
        relation = relation.select(*(_column(name, kind, supported) for name, kind in columns))
        return relation.to_arrow_table()


def _column(name: str, kind: Any, supported: set[str]) -> duckdb.Expression:
    column = duckdb.ColumnExpression(name)
    if _is_supported(kind, supported):
        return column
    return column.cast(duckdb.sqltype("VARCHAR")).alias(name)


def _is_supported(kind: Any, supported: set[str]) -> bool:
    """Return whether a DuckDB type and all types nested in it are in `supported`."""
    if kind.id not in _NESTED:
        return kind.id in supported
    nested = [child for _, child in kind.children if not isinstance(child, int)]  # array size
    return all(_is_supported(child, supported) for child in nested)


def _explain(error: duckdb.Error, source: Source) -> str:
    """Return DuckDB's message on one line, with a hint if there is one."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    if isinstance(error, duckdb.PermissionException) or "disabled by configuration" in text:
        return f"Queries can only read the views, not files or the network ({text})."
    if isinstance(error, duckdb.CatalogException):
        views = (name.rpartition("/")[2] for name in source.views)
        names = ", ".join((*source.tables(), *views, *source.computed()))
        return f"{text} Available views: {names}."
    return text[:1000]
