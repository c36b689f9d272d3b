"""Rows of local files: JSON lines, JSON, CSV and Parquet, the first three also gzipped.

    rows = read_file(Path("gsm8k/test.jsonl"), "gsm8k/test.jsonl")
    next(rows)    # ('gsm8k/test.jsonl line 1', {'question': 'Janet’s ducks lay …', …})

Rows are read as they are asked for. A corrupt file is an error that names file and line, never a
shorter stream: half a benchmark would look like a benchmark.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from malt_data.errors import QuestionsError, one_line

Row = tuple[str, dict[str, Any]]
"""The words that name a row (`train.jsonl line 7`), and its fields."""

FORMATS = (".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz")


def read_file(file: Path | Traversable, where: str) -> Iterator[Row]:
    """Yield the rows of a file; raise QuestionsError that names the line where it is corrupt."""
    name = file.name.lower().removesuffix(".gz")
    read = {"jsonl": _jsonl, "json": _json, "csv": _csv, "parquet": _parquet}[name.split(".")[-1]]
    at = _Place(where)
    try:
        with file.open("rb") as raw:
            stream = gzip.GzipFile(fileobj=raw) if file.name.lower().endswith(".gz") else raw
            yield from read(stream, at)
    except UnicodeDecodeError as error:
        raise QuestionsError(
            f"{at} is not UTF-8 (byte {error.object[error.start]:#04x}). Save the file as UTF-8."
        ) from None
    except RecursionError:
        raise QuestionsError(f"{at} is nested too deeply. Fix or remove it.") from None
    except (ValueError, csv.Error, OverflowError, LookupError) as error:
        # ValueError: JSON, Arrow's ArrowInvalid; the last two: dates and time zones of Arrow's
        form = name.split(".")[-1].upper()
        raise QuestionsError(
            f"{at} is not valid {form}: {one_line(error)}. Fix or remove it."
        ) from None
    except (EOFError, zlib.error, OSError) as error:  # OSError: a bad gzip, a disk, Arrow's own
        raise QuestionsError(f"{where} cannot be read: {one_line(error)}.") from None


@dataclass
class _Place:
    """Where a reader stands, for the message of whatever goes wrong there."""

    where: str
    unit: str = "line"
    number: int = 0

    def __str__(self) -> str:
        return f"{self.where} {self.unit} {self.number}" if self.number else self.where


def _lines(stream: Any, at: _Place) -> Iterator[str]:
    for at.number, line in enumerate(stream, 1):
        yield line.decode("utf-8-sig" if at.number == 1 else "utf-8")


def _jsonl(stream: Any, at: _Place) -> Iterator[Row]:
    for text in _lines(stream, at):
        if text.strip():
            yield str(at), _object(json.loads(text))


def _json(stream: Any, at: _Place) -> Iterator[Row]:
    """Read a list of rows, or JSON lines under the other name (as MATH-500 is often kept)."""
    data = stream.read()
    if not data.decode("utf-8-sig").lstrip().startswith("["):
        yield from _jsonl(data.splitlines(), at)
        return
    rows = json.loads(data.decode("utf-8-sig"))
    at.unit = "row"
    for at.number, row in enumerate(rows, 1):
        yield str(at), _object(row)


def _object(row: object) -> dict[str, Any]:
    if isinstance(row, dict):
        return row
    raise ValueError(f"it holds {type(row).__name__} instead of an object with fields")


def _csv(stream: Any, at: _Place) -> Iterator[Row]:
    """Read a table with a header; a row is named by the line it ends on, as fields may span."""
    reader = csv.reader(_lines(stream, at), strict=True)
    header = next(reader, [])
    if len(set(header)) < len(header):
        raise ValueError("the header names a field twice")
    for fields in reader:
        if fields and len(fields) != len(header):
            raise ValueError(f"{len(fields)} fields, the header has {len(header)}")
        if fields:
            yield str(at), dict(zip(header, fields, strict=True))


def _parquet(stream: Any, at: _Place) -> Iterator[Row]:
    import pyarrow.parquet as pq

    at.unit = "row"
    for batch in pq.ParquetFile(stream).iter_batches(batch_size=512):
        for row in batch.to_pylist():
            at.number += 1
            yield str(at), row
