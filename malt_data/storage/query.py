"""SQL over a forest or over results, read-only, that cannot leave them.

DuckDB gets no path at all: `allowed_directories` would grant writing too, and a COPY hides
inside a WITH. The Parquet files are handed over as Arrow datasets, then outside access is
switched off and the configuration locked. The cost is a slower `LIMIT 10`; scans are alike.

A hostile query can still eat memory (`repeat('x', 3000000000)` ignores DuckDB's limit), so
the command line runs it in a child process under a limit: `isolated`.
"""

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from malt_data.errors import MaltError, QueryError, of_system

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "temp_directory": "",
    "memory_limit": "8GB",
}


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
    """What can be asked: its tables, and which of schemas/views/*.sql stand on them.

    A view whose file would have the name of another's lies in a folder: `results/verdicts`.
    """

    views: tuple[str, ...]

    def tables(self) -> dict[str, ds.Dataset]:
        """Return the tables by name, for scanning."""
        ...


def connect(source: Source) -> duckdb.DuckDBPyConnection:
    """Return a connection that sees the tables and views of `source`, and nothing else."""
    connection = duckdb.connect(":memory:", config=_CONFIG)
    for name, table in source.tables().items():
        connection.register(name, table)
    views = resources.files("malt_data.schemas").joinpath("views")
    for name in ("judgement", *source.views):
        connection.execute(views.joinpath(f"{name}.sql").read_text("utf-8"))
    hide_progress(connection)
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def hide_progress(connection: duckdb.DuckDBPyConnection) -> None:
    """Turn DuckDB's progress bar off, which writes to the terminal.

    In a notebook without ipywidgets it is off, and DuckDB refuses any word about it.
    """
    shown = connection.execute("SELECT current_setting('enable_progress_bar')").fetchall()
    if shown == [(True,)]:
        connection.execute("SET enable_progress_bar = false")


def run_query(
    source: Source, query: str, parameters: Sequence[Any] = (), *, printable: bool = False
) -> pa.Table:
    """Return the rows of one query; raise QueryError where DuckDB refuses or fails.

    Of two columns named `text` the second is `text_1`. A column of a type that polars lacks
    (INTERVAL, MAP, BIT, …) comes as DuckDB's text. printable: dates, times and blobs too, of
    which DuckDB knows values that Python and polars cannot write.
    """
    known = _PRINTABLE if printable else _PRINTABLE | _TEMPORAL
    with connect(source) as connection:
        try:
            relation = connection.sql(query, params=list(parameters) or None)
            if relation is None:
                raise QueryError("The SQL gave no rows: it must be a query, e.g. FROM role_stats")
            relation = relation.select("*")  # DuckDB tells apart what has one name
            columns = zip(relation.columns, relation.types, strict=True)
            relation = relation.select(*(_column(name, kind, known) for name, kind in columns))
            return relation.to_arrow_table()
        except duckdb.Error as error:
            raise QueryError(_explain(error, source)) from None
        except (MemoryError, pa.ArrowException, UnicodeError) as error:
            raise QueryError(f"The SQL failed: {error or 'out of memory'}.") from None


def _column(name: str, kind: Any, known: set[str]) -> duckdb.Expression:
    column = duckdb.ColumnExpression(name)
    return column if _is_of(kind, known) else column.cast(duckdb.sqltype("VARCHAR")).alias(name)


def _is_of(kind: Any, known: set[str]) -> bool:
    """Say whether a DuckDB type, and all that it is made of, is among `known`."""
    if kind.id not in _NESTED:
        return kind.id in known
    parts = [part for _, part in kind.children if not isinstance(part, int)]  # an array's size
    return all(_is_of(part, known) for part in parts)


def isolated(work: Callable[[], None], gibibytes: int = 16) -> int:
    """Run `work` in a child process under a memory limit; return its exit code.

    Whatever the query does to the child, the caller goes on: a MaltError becomes one line on
    stderr, a death by signal is reported as what it is. Ctrl-C kills the child at once.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _child(work, gibibytes)
    try:
        _, status = os.waitpid(child, 0)
    except KeyboardInterrupt:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        raise QueryError(
            f"The query was stopped ({name}): it needs more than {gibibytes} GiB of memory. "
            "Select fewer rows or columns, or aggregate."
        )
    return os.waitstatus_to_exitcode(status)


def _child(work: Callable[[], None], gibibytes: int) -> None:
    import resource

    limit = gibibytes * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    code = 1
    try:
        work()
        sys.stdout.flush()
        code = 0
    except MaltError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        code = error.exit_code
    except BrokenPipeError:  # the reader (head) had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except OSError as error:
        print(f"Error: {of_system(error)}", file=sys.stderr)  # noqa: T201
    except MemoryError:
        print("Error: The query ran out of memory. Select less.", file=sys.stderr)  # noqa: T201
    except BaseException:  # noqa: BLE001 - a bug of ours: show it, but never return into the parent's code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _explain(error: duckdb.Error, source: Source) -> str:
    """Return DuckDB's message on one line, with what to do where we know it."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    if isinstance(error, duckdb.PermissionException) or "disabled by configuration" in text:
        return f"The query may only read its views, not files or the network ({text})."
    if isinstance(error, duckdb.CatalogException):
        views = (name.rpartition("/")[2] for name in source.views)
        names = ", ".join((*source.tables(), *views))
        return f"{text} The views are: {names}."
    return text[:1000]
