"""Rows of local files: JSON lines, JSON, CSV and Parquet, the first three also gzipped.

    rows = read_file(Path("gsm8k/test.jsonl"), "gsm8k/test.jsonl")
    next(rows)    # ('gsm8k/test.jsonl line 1', {'question': 'Janet’s ducks lay …', …})

Rows are read lazily. A corrupt file raises an error that names the file and line; it never yields
a shorter stream, because half a benchmark would pass for a whole one.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from malt_data.errors import QuestionsError, one_line

Row = tuple[str, dict[str, Any]]
"""A row's location (`train.jsonl line 7`), and its fields."""

LONGEST_LINE = 256 * 2**20
"""In bytes."""

FORMATS = (".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz")


def read_file(file: Path | Traversable, where: str) -> Iterator[Row]:
    """Yield the rows of a file; raise QuestionsError naming the line if the file is corrupt."""
    name = file.name.lower().removesuffix(".gz")
    reader = {"jsonl": _jsonl, "json": _json, "csv": _csv, "parquet": _parquet}[name.split(".")[-1]]
    position = _Position(where)
    try:
        with file.open("rb") as raw:
            stream = gzip.GzipFile(fileobj=raw) if file.name.lower().endswith(".gz") else raw
            yield from reader(stream, position)
    except UnicodeDecodeError as error:
        raise QuestionsError(
            f"{position} is not UTF-8 (byte {error.object[error.start]:#04x}). "
            "Save the file as UTF-8."
        ) from None
    except RecursionError:
        raise QuestionsError(f"{position} is nested too deeply. Fix or remove it.") from None
    except (ValueError, csv.Error, OverflowError, LookupError) as error:
        # ValueError: JSON and ArrowInvalid; the last two: Arrow's dates and time zones
        format_name = name.split(".")[-1].upper()
        raise QuestionsError(
            f"{position} is not valid {format_name}: {one_line(error)}. Fix or remove it."
        ) from None
    except (EOFError, zlib.error, OSError) as error:  # OSError: bad gzip, disk, Arrow
        raise QuestionsError(f"{where} cannot be read: {one_line(error)}.") from None


@dataclass
class _Position:
    """The current position of a reader, for error messages."""

    where: str
    unit: str = "line"
    number: int = 0

    def __str__(self) -> str:
        return f"{self.where} {self.unit} {self.number}" if self.number else self.where


def _lines(stream: Any, position: _Position) -> Iterator[str]:
    for position.number, line in enumerate(iter(lambda: stream.readline(LONGEST_LINE + 1), b""), 1):
        if len(line) > LONGEST_LINE:
            raise ValueError(f"longer than {LONGEST_LINE} bytes")
        yield line.decode("utf-8-sig" if position.number == 1 else "utf-8")


def _jsonl(stream: Any, position: _Position) -> Iterator[Row]:
    for text in _lines(stream, position):
        if text.strip():
            yield str(position), _object(json.loads(text))


def _json(stream: Any, position: _Position) -> Iterator[Row]:
    """Read a JSON array, or JSON lines with a .json extension (common for MATH-500)."""
    data = stream.read()
    if not data.decode("utf-8-sig").lstrip().startswith("["):
        yield from _jsonl(io.BytesIO(data), position)
        return
    rows = json.loads(data.decode("utf-8-sig"))
    position.unit = "row"
    for position.number, row in enumerate(rows, 1):
        yield str(position), _object(row)


def _object(row: object) -> dict[str, Any]:
    if isinstance(row, dict):
        return row
    raise ValueError(f"expected an object with fields, got {type(row).__name__}")


def _csv(stream: Any, position: _Position) -> Iterator[Row]:
    """Read a table with a header; a row's position is its last line, as fields may span lines."""
    reader = csv.reader(_lines(stream, position), strict=True)
    header = next(reader, [])
    if len(set(header)) < len(header):
        raise ValueError("duplicate field in the header")
    for fields in reader:
        if fields and len(fields) != len(header):
            raise ValueError(f"expected {len(header)} fields as in the header, got {len(fields)}")
        if fields:
            yield str(position), dict(zip(header, fields, strict=True))


def _parquet(stream: Any, position: _Position) -> Iterator[Row]:
    import pyarrow.parquet as pq

    position.unit = "row"
    for batch in pq.ParquetFile(stream).iter_batches(batch_size=512):
        for row in batch.to_pylist():
            position.number += 1
            yield str(position), row
