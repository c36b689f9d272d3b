"""Parquet files: atomic writes, checked footers, and an error that says what is wrong.

    write_table(Path("nodes/part-0.parquet"), table)
    read_footer(Path("nodes/part-0.parquet")).stamp      # 'forest/2'

Files may come from anywhere, so their metadata is validated like any other input.
"""

import stat
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Json, StringConstraints

from malt_data.errors import SpecError, StorageError
from malt_data.schemas.forest import SCHEMA_KEY
from malt_data.schemas.model import Model
from malt_data.schemas.spec import Labelled
from malt_data.storage.files import atomic_write

REPLACES = b"malt.replaces"
"""Footer key of a merged part: a JSON list of the part names that it replaces."""
LABELS = b"malt.labels"
"""Footer key of a part: the grader, threshold and pooling of its labels."""

_ROW_GROUP = 122_880
_MOVE_IT = (
    "Move it out of the folder and run the same malt-data build or eval again; only the rows of "
    "this file are sampled again."
)

PartName = Annotated[str, StringConstraints(pattern=r"^part-[^/\\\x00-\x1f]+\.parquet$")]


class Footer(Model):
    """The metadata in the footer of a part."""

    stamp: str | None = None
    """Schema and version, e.g. `forest/2`."""
    replaces: Json[tuple[PartName, ...]] = ()
    labels: Json[Labelled] | None = None
    columns: Any = None
    """The Arrow schema of the file."""


class MissingFile(StorageError):
    """A file that does not exist, perhaps because another process has just merged it."""


def write_table(path: Path, table: pa.Table) -> None:
    """Write `table` to `path` atomically, compressed with zstd.

    Raises StorageError if the disk is full or the folder is not writable.
    """
    with atomic_write(path) as temporary:
        pq.write_table(
            table.combine_chunks(),  # so that the same rows always give the same pages
            temporary,
            compression="zstd",
            compression_level=3,
            row_group_size=_ROW_GROUP,
            use_content_defined_chunking=True,  # so that the Hub stores little after a relabel
            write_page_index=True,  # so that readers, the Hub's among them, can skip pages
        )


def read_table(
    path: Path,
    columns: list[str] | None = None,
    *,
    dictionary: list[str] | None = None,
) -> pa.Table:
    """Return a Parquet file, or some of its columns; raise StorageError if it is corrupt.

    dictionary: the columns of strings to return as dictionaries.
    """
    file_state(path)
    try:
        # `pq.read_table` would import pyarrow.dataset, and takes twice as long for a small file
        with pq.ParquetFile(path, read_dictionary=dictionary) as file:
            table = file.read(columns)
        return table if columns is None else table.select(columns)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, KeyError, pa.ArrowException) as error:
        raise corrupt(path, error) from error


def count_rows(path: Path) -> int:
    """Return the number of rows in a Parquet file; raise StorageError if it is corrupt."""
    return int(_metadata(path).num_rows)


def count_bytes(path: Path) -> int:
    """Return the bytes of a Parquet file's columns before compression; raise as `count_rows`."""
    found = _metadata(path)
    return sum(found.row_group(group).total_byte_size for group in range(found.num_row_groups))


def bounds(path: Path, column: str) -> tuple[str, str] | None:
    """Return a lower and an upper bound of a column of strings, from the file's statistics.

    None if it has none. Raises as `count_rows`.
    """
    found = _metadata(path)
    try:
        groups = [found.row_group(number) for number in range(found.num_row_groups)]
        columns = [group.column(place) for group in groups for place in range(group.num_columns)]
        known = [each.statistics for each in columns if each.path_in_schema == column]
        if not known or not all(each is not None and each.has_min_max for each in known):
            return None
        low, high = min(each.min for each in known), max(each.max for each in known)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise corrupt(path, error) from error
    return (low, high) if isinstance(low, str) and isinstance(high, str) else None


def _metadata(path: Path) -> Any:
    file_state(path)
    try:
        return pq.read_metadata(path)
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, pa.ArrowException) as error:
        raise corrupt(path, error) from error


def encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """Return strings as one dictionary array."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.unify_dictionaries().combine_chunks()
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column


def read_schema(path: Path) -> pa.Schema:
    """Return the schema of a Parquet file; raise StorageError if it is corrupt."""
    file_state(path)
    try:
        schema = pq.read_schema(path)
        _require_text(schema)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise corrupt(path, error) from error
    return schema


def read_footer(path: Path) -> Footer:
    """Return the footer of a part; raise StorageError if it is corrupt."""
    schema = read_schema(path)
    metadata = schema.metadata or {}
    keys = {"stamp": SCHEMA_KEY, "replaces": REPLACES, "labels": LABELS}
    try:
        found = {k: metadata[v] for k, v in keys.items() if v in metadata}
        return Footer.model_validate({**found, "columns": schema})
    except SpecError as error:
        raise StorageError(
            f"{path} has a corrupt footer ({str(error)[:160]}). {_MOVE_IT}"
        ) from None


def file_state(path: Path) -> tuple[int, int]:
    """Return inode and mtime, which identify a file's version.

    Raises StorageError unless it is a regular file.
    """
    try:
        facts = path.stat()
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        raise corrupt(path, error) from error
    if not stat.S_ISREG(facts.st_mode):  # reading a pipe would block forever
        raise StorageError(f"{path} is not a regular file. Move it out of the folder.")
    return facts.st_ino, facts.st_mtime_ns


def corrupt(path: Path, error: Exception) -> StorageError:
    """Return the error for a file that is not readable as Parquet."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return StorageError(f"{path} is corrupt or not a Parquet file ({reason}). {_MOVE_IT}")


def _missing(path: Path) -> MissingFile:
    return MissingFile(f"{path} is missing. Restore it, or use a new folder.")


def _require_text(schema: pa.Schema) -> None:
    """Raise UnicodeDecodeError for metadata on which polars would panic."""
    for pair in (schema.metadata or {}).items():
        b"".join(pair).decode()
    fields = list(schema)
    while fields:
        field = fields.pop()
        for pair in (field.metadata or {}).items():
            b"".join(pair).decode()
        fields += [field.type.field(index) for index in range(field.type.num_fields)]
