"""Arrange rows for another tool: from TRL's form to the columns and shards of a layout.

with Arranged(LAYOUTS["llamafactory"], forest, config, rows.schema, folder) as arranged:
    arranged.write("train", batch)          # folder/train/train-00000.parquet
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from malt_data.exporters.layouts import Layout
from malt_data.exporters.shards import Shards
from malt_data.forests.forest import Forest
from malt_data.schemas.exports import REASONING, VARIABLES, Config
from malt_data.schemas.layout import ORIGIN
from malt_data.storage.query import lock_down

_TEXTS = ("prompt", "completion", "chosen", "rejected")
_QUESTION = ["source", "kind", "choices", "gold"]
_UNTHOUGHT = (
    "list_transform(prompt, lambda m: "
    f"{{'role': m.role, 'content': m.content, '{REASONING}': ''}}) AS prompt"
)
"""A prompt whose messages have the keys of the completion's, so that one list can hold both."""


class Arranged:
    """A context manager that writes rows in a layout, as `Shards` does in TRL's form."""

    def __init__(
        self, layout: Layout, forest: Forest, config: Config, schema: pa.Schema, folder: Path
    ) -> None:
        """schema: that of the rows in TRL's form."""
        rl = config.format.name == "value"  # a row is a prompt, not the sample with that value
        left_out = (*_TEXTS, VARIABLES, *(["value"] if rl else []))
        ids = pa.schema([field for field in schema if field.name not in left_out])
        self._questions = _questions(forest) if rl else None
        self._query = _query(layout, config, schema, ids.names)
        self._connection = duckdb.connect(":memory:", config={"threads": 1})
        lock_down(self._connection)
        columns = self._arranged(schema.empty_table()).schema
        self._shards = Shards(folder, columns, suffix=layout.suffix, nested=layout.nested)
        self._origin = None if layout.foreign else Shards(folder / ORIGIN, ids)
        self._ids = ids
        self._columns = columns
        self._stack = ExitStack()

    def __enter__(self) -> "Arranged":
        self._stack.enter_context(self._connection)
        self._stack.enter_context(self._shards)
        if self._origin is not None:
            self._stack.enter_context(self._origin)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, split: str, rows: pa.Table) -> None:
        """Queue rows in TRL's form to be written."""
        self._shards.write(split, self._arranged(rows).cast(self._columns))
        if self._origin is not None:
            self._origin.write(split, rows.select(self._ids.names).cast(self._ids))

    def _arranged(self, rows: pa.Table) -> pa.Table:
        if self._questions is not None:
            place = pc.index_in(rows["question_id"], self._questions["question_id"])
            for name in _QUESTION:
                rows = rows.append_column(name, self._questions[name].take(place))
        self._connection.register("trl_rows", rows)
        return self._connection.sql(self._query).to_arrow_table()


def _questions(forest: Forest) -> pa.Table:
    columns = forest.questions().select("question_id", *_QUESTION)
    return columns.collect(engine="streaming").to_arrow()


def _query(layout: Layout, config: Config, schema: pa.Schema, ids: list[str]) -> str:
    """Return the SQL that arranges `trl_rows`; the ids of a row follow where the tool allows."""
    columns = [layout.formats[config.format.name], *(ids if layout.foreign else [])]
    thinking = any(REASONING in str(field.type) for field in schema)
    rows = f"(SELECT * REPLACE ({_UNTHOUGHT}) FROM trl_rows)" if thinking else "trl_rows"
    return f"SELECT {', '.join(columns)} FROM {rows}"
