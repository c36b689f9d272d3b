"""Read trees as a page shows them: nodes as short lists, and what exports do with their pairs.

with TreeReader(forest) as reader:
    for question_id, tree in reader.read(ids):
        tree["nodes"][0]  # [text, thinking, parent, depth, …] in the order of NODE
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Self

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from malt_data.exporters.export import exports_of
from malt_data.exporters.rows import LEDGER_COLUMNS, Rows
from malt_data.exporters.selection import Selection
from malt_data.forests.confidence import COLUMNS as CONFIDENCE
from malt_data.forests.confidence import confidence_of
from malt_data.forests.forest import Forest
from malt_data.schemas.exports import all_configs
from malt_data.schemas.forest import NODES

NODE = (
    *("text", "thinking", "parent", "depth", "node_id", "answer", "verdict", "value", "label"),
    *("reward", "extra", "finish_reason", "prompt_tokens", "completion_tokens", "confidence"),
    "judgement",
)
"""What a page knows of a node, in this order."""


class TreeReader:
    """A context manager that reads trees; open one for all trees of a page."""

    def __init__(self, forest: Forest) -> None:
        self._forest = forest
        self._stack = ExitStack()
        self._confidence = confidence_of(forest)
        existing = {} if forest.origin else exports_of(forest)
        self._exports = []
        for config in all_configs(forest.manifest.spec.pipeline.roles):
            if config.format.unit == "pair":
                report = existing.get(config.name)
                rows = Rows(forest, config, report.selection if report else Selection())
                self._exports.append(self._stack.enter_context(rows))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, ids: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (question_id, {"nodes": …, "pairs": …}) for each id, in this order.

        pairs: [role, chosen, rejected, what became of it], nodes by their index in the tree; what
        became: train, validation, or the reason why the role's dpo export leaves it out.
        """
        nodes = self._nodes(ids)
        pairs = self._pairs(nodes)
        facts = self._confidence.of(nodes.select(CONFIDENCE)).select("confidence")
        nodes = nodes.hstack(facts).join(self._judged(ids), on="node_id", how="left",
                                         maintain_order="left")  # fmt: skip
        for (name,), tree in nodes.group_by("question_id", maintain_order=True):
            yield str(name), {"nodes": _short(tree), "pairs": _places(tree, pairs)}

    def _nodes(self, ids: Sequence[str]) -> pl.DataFrame:
        wanted = [*dict.fromkeys([*LEDGER_COLUMNS, "role", *NODE])]
        columns = [name for name in wanted if name in NODES.names]
        chosen = pa.array(ids)
        parts = (self._forest.parts.read(path, columns) for path in self._forest.parts.paths())
        found = [part.filter(pc.is_in(part["question_id"], chosen)) for part in parts]
        nodes = pl.concat(
            pl.DataFrame(part).with_columns(pl.col("question_id", "role").cast(pl.String))
            for part in found
        )
        return nodes.sort("question_id", "node")

    def _judged(self, ids: Sequence[str]) -> pl.DataFrame:
        return self._forest.sql(
            "SELECT node_id, judgement FROM judgements WHERE question_id BETWEEN $1 AND $2",
            [ids[0], ids[-1]],
        )

    def _pairs(self, nodes: pl.DataFrame) -> pl.DataFrame:
        """Return every pair with its role and what became of it."""
        fields = [NODES.field(name) for name in LEDGER_COLUMNS]
        chunk = nodes.select(field.name for field in fields).to_arrow()
        chunk = pa.table({f.name: chunk[f.name].cast(f.type) for f in fields})
        ledgers = []
        for rows in self._exports:
            ledger = pl.DataFrame(rows.ledger(chunk))
            became = pl.coalesce("reason", "split").alias("became")
            role = pl.lit(rows.config.role).alias("role")
            ledgers.append(ledger.select("chosen_id", "rejected_id", role, became))
        return pl.concat(ledgers)


def _short(tree: pl.DataFrame) -> list[list[Any]]:
    """Return the nodes as lists in the order of NODE, ids without the question's."""
    start = len(tree["question_id"][0]) + 1
    short = tree.select(NODE).with_columns(
        pl.col("node_id").str.slice(start), pl.col("confidence").round(4).fill_nan(None)
    )
    return [list(row) for row in short.rows()]


def _places(tree: pl.DataFrame, pairs: pl.DataFrame) -> list[list[Any]]:
    """Return the pairs of a tree with the indices of their nodes."""
    place = tree.select("node_id", pl.int_range(pl.len()).alias("place"))
    found = (
        pairs.join(place.rename({"node_id": "chosen_id", "place": "chosen"}), on="chosen_id")
        .join(place.rename({"node_id": "rejected_id", "place": "rejected"}), on="rejected_id")
        .select("role", "chosen", "rejected", "became")
        .sort("chosen", "rejected")
    )
    return [list(row) for row in found.rows()]
