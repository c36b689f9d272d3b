"""Write the rows of an export to shards on a background thread.

with Shards(folder, rows.schema) as shards:
    for split, batch in rows.batches():
        shards.write(split, batch)         # train-00000.parquet, train-00001.parquet, …
"""

import json
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from malt_data.schemas.exports import SPLITS

Suffix = Literal["parquet", "jsonl"]

_SHARD_BYTES = 256 * 2**20
_QUEUE = 4
"""Batches waiting to be written: about as many as one chunk yields. With fewer, the queries of the
next chunk would wait for the writer."""


class Shards:
    """Writes `train-00000.parquet`, `train-00001.parquet`, … on a background thread.

    Content-defined chunking and one row group per batch keep unchanged rows byte-equal, so the Hub
    stores them once. suffix: Parquet or lines of JSON. nested: with a folder for each split.
    """

    def __init__(
        self,
        folder: Path,
        schema: pa.Schema,
        shard_bytes: int | None = None,
        *,
        suffix: Suffix = "parquet",
        nested: bool = False,
    ) -> None:
        self._folder = folder
        self._schema = schema
        self._shard_bytes = shard_bytes or _SHARD_BYTES
        self._suffix = suffix
        self._nested = nested
        self._open: dict[str, _Parquet | _Lines] = {}
        self._next_index = dict.fromkeys(SPLITS, 0)
        self._thread = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            while kind is None and self._pending:
                self._pending.popleft().result()
        finally:
            self._thread.shutdown(cancel_futures=True)
            for split in list(self._open):
                self._open.pop(split).close()

    def write(self, split: str, rows: pa.Table) -> None:
        """Queue rows to be written; blocks while more than `_QUEUE` batches are waiting."""
        self._pending.append(self._thread.submit(self._append, split, rows))
        if len(self._pending) > _QUEUE:
            self._pending.popleft().result()

    def _append(self, split: str, rows: pa.Table) -> None:
        if split not in self._open:
            path = self._path(split)
            self._next_index[split] += 1
            self._open[split] = (
                _Lines(path) if self._suffix == "jsonl" else _Parquet(path, self._schema)
            )
        shard = self._open[split]
        shard.write(rows)
        if shard.size() >= self._shard_bytes:
            self._open.pop(split).close()

    def _path(self, split: str) -> Path:
        folder = self._folder / split if self._nested else self._folder
        folder.mkdir(exist_ok=True)
        return folder / f"{split}-{self._next_index[split]:05d}.{self._suffix}"


class _Parquet:
    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pq.ParquetWriter(
            self._sink,
            schema,
            compression="zstd",
            compression_level=3,
            use_content_defined_chunking=True,
        )

    def write(self, rows: pa.Table) -> None:
        self._writer.write_table(rows)

    def size(self) -> int:
        return int(self._sink.tell())

    def close(self) -> None:
        self._writer.close()
        self._sink.close()


class _Lines:
    """A JSON object a row. Only ASCII: some readers take U+2028 in a text for the end of a line."""

    def __init__(self, path: Path) -> None:
        self._sink = path.open("w", encoding="ascii", newline="\n")

    def write(self, rows: pa.Table) -> None:
        self._sink.writelines(f"{json.dumps(row)}\n" for row in rows.to_pylist())

    def size(self) -> int:
        return self._sink.tell()

    def close(self) -> None:
        self._sink.close()
