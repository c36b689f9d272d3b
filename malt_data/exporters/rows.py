"""The rows of one export, computed for a chunk of whole trees at a time to bound memory.

For each chunk, SQL builds a ledger (each candidate with the reason why it is left out, or null),
then the prompts of the parents, then the rows. Trees never span parts and no rule looks beyond a
tree, so chunks are independent.

    with Rows(forest, config_named("refiner_dpo"), Selection()) as rows:
        for split, batch in rows.batches(): ...
    rows.counts   # {("train", None): 812, ("train", "identical"): 40, …}
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from malt_data.errors import ExportError, SpecError
from malt_data.exporters.prompts import joins, prompts_query
from malt_data.exporters.selection import UNFIT, Selection, rules
from malt_data.forests import confidence
from malt_data.forests.forest import Forest
from malt_data.prompts.templates import templates
from malt_data.schemas.exports import REASONING, SPLITS, VARIABLES, Config
from malt_data.schemas.manifest import CURRENT
from malt_data.schemas.versions import stamp_of, upgrade
from malt_data.storage.parquet import corrupt
from malt_data.storage.query import lock_down

if TYPE_CHECKING:
    from malt_data.exporters.fit import Fit

Counts = Counter[tuple[str, str | None]]
"""(split, reason) → candidates; reason None: exported."""

_CHUNK_BYTES = 64 * 2**20
_TOKENIZER_BATCH = 512
"""Rows to tokenize at once."""
_BATCH_BYTES = 32 * 2**20
COLUMNS = [
    *("question_id", "node_id", "depth", "sample", "node", "parent"),
    *("text", "verdict", "value", "label", "finish_reason"),
]
LEDGER_COLUMNS = [*dict.fromkeys([*COLUMNS, "thinking", *confidence.COLUMNS])]
"""The columns of nodes that a ledger may need, whatever the selection."""
_CANDIDATES = {"node": "nodes", "pair": "pairs", "trajectory": "trajectories"}
_LEDGER = {
    "node": ["key", "node_id"],
    "pair": ["chosen", "rejected", "chosen_id", "rejected_id"],
    "trajectory": ["key", "node_id"],
}
"""Unit of a row → the columns that the ledger keeps of a candidate; a trajectory also the key of
each turn."""
_SAID = {
    (False, False): "[{'role': 'assistant', 'content': text}]",
    (False, True): "[{'role': 'assistant', 'content': text, "
    f"'{REASONING}': coalesce(thinking, '')}}]",
    (True, False): "text",
    (True, True): "coalesce('<think>' || chr(10) || nullif(thinking, '') || chr(10) || '</think>' "
    "|| chr(10) || chr(10), '') || text",
}
"""(whether the forest's prompts are plain text, whether thinking is selected) → how a completion is
written in a row. Without thinking, the column is not read and need not exist."""
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "2GB",
    # Chunks are too small to parallelise: two threads used more CPU time and were no faster, and
    # the second core is busy writing.
    "threads": 1,
    "temp_directory": "",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    # Rows keep the ledger's order only if the ledger is the probe side of each join; the optimiser
    # would swap sides by size.
    "disabled_optimizers": "join_order,build_side_probe_side",
}


class Rows:
    """A context manager for one DuckDB connection; use it once.

    For some trees only: pass the rows of their `questions`. For several configs, which then share
    it, a `new_database`.
    """

    def __init__(
        self,
        forest: Forest,
        config: Config,
        selection: Selection,
        *,
        questions: pa.Table | None = None,
        database: duckdb.DuckDBPyConnection | None = None,
    ) -> None:
        self.config = config
        self.counts: Counts = Counter()
        self._forest = forest
        spec = forest.manifest.spec
        self._turns = len(spec.pipeline.turns)
        self._depths = (
            spec.pipeline.depths(config.role) if config.role is not None else (self._turns,)
        )
        self._variables = spec.chat_template.variables
        self.schema = config.schema_for(spec.chat_template, thinking=selection.thinking)
        self.selection = with_tokenizer(selection, forest)
        self._fit = _fit_of(self.selection)
        asked = self.selection.min_confidence > 0
        self._confidence = confidence.confidence_of(forest) if asked else None
        self._connection = (database or new_database()).cursor()
        asked_for = forest.questions_dataset() if questions is None else questions
        self._connection.register("stored_questions", asked_for)
        self._connection.execute(
            _query("questions"), {"seed": str(selection.seed), "border": selection.border}
        )
        said = _SAID[spec.chat_template.plain, selection.thinking]
        self._connection.execute(f"CREATE TEMP MACRO said(text, thinking) AS {said}")
        prompted = self._depths if config.role is not None else (1,)
        self._prompts, self._literals = prompts_query(spec, prompted, self._kinds(prompted))

    def _kinds(self, depths: Sequence[int]) -> list[str]:
        """Return the kinds of the questions; raise ExportError if a turn has no prompt for one."""
        spec = self._forest.manifest.spec
        found = self._connection.execute("SELECT DISTINCT kind FROM questions ORDER BY kind")
        kinds = [str(kind) for (kind,) in found.fetchall()]
        for kind in kinds:
            for turn in (spec.pipeline.turns[depth - 1] for depth in depths):
                if not templates(spec.prompts, kind, turn):
                    raise ExportError(
                        f"{self._forest.folder} has questions of kind {kind!r}, but its "
                        f"forest.json has no prompt of {turn.template} for them. Restore it, or "
                        "get the forest again."
                    )
        return kinds

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def batches(self) -> Iterator[tuple[str, pa.Table]]:
        """Yield (split, rows) for the whole forest, in batches of some tens of megabytes."""
        for chunk in self.chunks():
            yield from self.of(chunk)

    def chunks(self) -> Iterator[pa.Table]:
        """Yield the forest's nodes, with the columns that the selection needs."""
        more = ["thinking"] if self.selection.thinking else []
        if self._confidence is not None:
            more += [name for name in confidence.COLUMNS if name not in COLUMNS]
        return chunks(self._forest, more=more)

    def of(self, chunk: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        """Yield (split, rows) for a chunk of whole trees, and add to `counts`."""
        self.count(chunk)
        yield from self._rows(chunk)

    def count(self, chunk: pa.Table) -> None:
        """Add a chunk of whole trees to `counts` without building its rows."""
        for split, reason, count in self._build_ledger(chunk):
            self.counts[split, reason] += count

    def ledger(self, chunk: pa.Table) -> pa.Table:
        """Return every candidate in a chunk of whole trees with its split and reason."""
        self._build_ledger(chunk)
        return self._connection.sql("FROM ledger").to_arrow_table()

    def _build_ledger(self, chunk: pa.Table) -> list[tuple[str, str | None, int]]:
        """Build the ledger of a chunk; return its (split, reason, count)."""
        tree = pc.dictionary_encode(chunk["question_id"].combine_chunks()).indices
        keyed = chunk.append_column("tree", tree.cast(pa.int64()))
        self._connection.register("chunk", keyed.append_column("sure", self._sure(chunk)))
        self._connection.execute(_query("keyed").replace("{leaf}", str(self._turns)))
        source = f"({self._of_paths(_query(_CANDIDATES[self.config.format.unit]))})"
        all_rules = rules(self.config, self.selection)
        if self._fit:
            before_fit = takewhile(lambda rule: rule[0] not in UNFIT, all_rules)
            self._apply_rules(source, list(before_fit))
            self._connection.register("unfit", self._unfit(chunk))
            source += f" LEFT JOIN unfit USING ({', '.join(self.config.ids)})"
        self._apply_rules(source, all_rules)
        counts: list[tuple[str, str | None, int]] = self._connection.execute(
            "SELECT split, reason, count(*) FROM ledger GROUP BY ALL"
        ).fetchall()
        return counts

    def _sure(self, chunk: pa.Table) -> pa.Array:
        """Return the confidence of each node's label; null if no rule asks for it."""
        if self._confidence is None:
            return pa.nulls(chunk.num_rows, pa.float64())
        nodes = pl.DataFrame(chunk.select(confidence.COLUMNS))
        return self._confidence.of(nodes)["confidence"].to_arrow()

    def _apply_rules(self, source: str, rules: list[tuple[str, str]]) -> None:
        """Create the ledger of the candidates in `source` under these rules."""
        steps = [f"candidates AS (SELECT *, NULL::VARCHAR AS reason FROM {source})"]
        for step, (reason, condition) in enumerate(rules):
            before = f"step_{step - 1}" if step else "candidates"
            steps.append(
                f"step_{step} AS (SELECT * REPLACE (CASE WHEN reason IS NOT NULL THEN reason "
                f"WHEN {condition} THEN '{reason}' END AS reason) FROM {before})"
            )
        last = f"step_{len(steps) - 2}" if len(steps) > 1 else "candidates"
        key = "parent" if self.config.role else f"{last}.key >> 32 << 32"
        columns = [*_LEDGER[self.config.format.unit], *([] if self.config.role else self._keys)]
        self._connection.execute(
            f"CREATE OR REPLACE TEMP TABLE ledger AS WITH {', '.join(steps)} "
            f"SELECT {', '.join(columns)}, question_id, reason, "
            f"validation, if(validation, 'validation', 'train') AS split, {key} AS prompt_key "
            f"FROM {last} JOIN questions USING (question_id) "
            "ORDER BY validation, parent, place",
            {"depths": self._depths, "seed": str(self.selection.seed)},
        )

    def _unfit(self, chunk: pa.Table) -> pa.Table:
        """Return the ids of the ledger's rows that do not fit the tokenizer, with the reason."""
        assert self._fit
        ids = self.config.ids
        unfit = []
        for _, table in self._rows(chunk):
            for batch in table.to_batches(_TOKENIZER_BATCH):
                rows = batch.to_pylist()
                for row, measured in zip(rows, self._fit.measure(rows), strict=True):
                    if measured.reason:
                        unfit.append({name: row[name] for name in ids} | {"unfit": measured.reason})
        return pa.Table.from_pylist(unfit, pa.schema([(n, pa.string()) for n in (*ids, "unfit")]))

    def _rows(self, chunk: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        self._connection.execute(self._prompts, self._literals)
        query = self._of_paths(_query(f"{self.config.format.unit}_rows"))
        relation = self._connection.sql(query)
        width = max(1, 4 * chunk.nbytes // max(1, chunk.num_rows))  # prompts repeat texts
        schema = self.schema
        for batch in relation.to_arrow_reader(max(64, min(65_536, _BATCH_BYTES // width))):
            rows = pa.Table.from_batches([batch])
            held_out = rows["validation"]
            for split, side in zip(SPLITS, (pc.invert(held_out), held_out), strict=True):
                part = rows if pc.all(side).as_py() else rows.filter(side)
                if self._variables:
                    same = pa.scalar(self._variables, schema.field(VARIABLES).type)
                    part = part.append_column(VARIABLES, pa.repeat(same, part.num_rows))
                if part.num_rows:
                    yield split, part.select(schema.names).cast(schema)

    @property
    def _keys(self) -> list[str]:
        """The ledger's columns with the key of each turn of a trajectory but the last."""
        return [f"turn_{depth}" for depth in range(1, self._turns)]

    def _of_paths(self, query: str) -> str:
        """Fill in what a query of trajectories says of every turn; other queries are unchanged."""
        depths = range(1, self._turns + 1)
        filled = {
            "{keys}": "".join(f"{name}.key AS {name}, " for name in self._keys),
            "{truncated}": " OR ".join(f"turn_{depth}.truncated" for depth in depths),
            "{texts}": ", ".join(f"turn_{depth}.text" for depth in depths),
            "{leaf}": f"turn_{self._turns}",
            "{above}": joins(self._turns),
            "{found}": " ".join(
                f"JOIN keyed AS {name} ON {name}.key = ledger.{name}" for name in self._keys
            ),
        }
        for name, text in filled.items():
            query = query.replace(name, text)
        return query


def new_database() -> duckdb.DuckDBPyConnection:
    """Return an empty database that can read nothing but what is registered."""
    connection = duckdb.connect(":memory:", config=_CONFIG)
    lock_down(connection)  # the prompts come from a manifest that anyone may have written
    return connection


def _fit_of(selection: Selection) -> "Fit | None":
    """Return what fits the selection's tokenizer, if it has one."""
    if not selection.tokenizer:
        return None
    from malt_data.exporters.fit import load_fit

    return load_fit(selection.tokenizer, selection.max_length)


def with_tokenizer(selection: Selection, forest: Forest) -> Selection:
    """Return the selection with the forest's model as tokenizer if `max_length` needs one."""
    if selection.max_length is None or selection.tokenizer:
        return selection
    if forest.manifest.spec.model is None:
        raise SpecError(
            "max_length needs a tokenizer, but the forest names no model. Pass --tokenizer NAME"
        )
    return selection.model_copy(update={"tokenizer": forest.manifest.spec.model})


def chunks(
    forest: Forest, budget: int | None = None, *, more: Sequence[str] = ()
) -> Iterator[pa.Table]:
    """Yield the columns an export needs, in chunks of whole trees of about `budget` bytes.

    A tree larger than that is one chunk. The nodes of a tree are contiguous in a part. more: names
    of further columns.
    """
    budget = budget or _CHUNK_BYTES
    columns = [*COLUMNS, *more]
    pending: list[pa.Table] = []
    size = 0
    for path in forest.parts.paths():
        for table in _tables(path, columns, budget):
            pending.append(table)
            size += table.nbytes
            if size >= budget and (cut := _last_tree(table)):
                yield pa.concat_tables([*pending[:-1], table[:cut]])
                pending = [table[cut:]]
                size = pending[0].nbytes
        if size >= budget:  # parts end at a tree boundary
            yield pa.concat_tables(pending)
            pending, size = [], 0
    if pending:
        yield pa.concat_tables(pending)


def _tables(path: Path, columns: list[str], budget: int) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(path) as file:
            facts = file.metadata
            width = sum(
                facts.row_group(i).total_byte_size for i in range(facts.num_row_groups)
            ) // max(1, facts.num_rows)
            rows = max(64, min(65_536, budget // 4 // max(1, width)))
            if stamp_of(file.schema_arrow) != CURRENT:  # an upgrade needs whole trees
                yield from _slices(upgrade(file.read(), str(path)).select(columns), rows)
                return
            for batch in file.iter_batches(batch_size=rows, columns=columns):
                yield pa.Table.from_batches([batch])
    except (OSError, pa.ArrowException) as error:
        raise corrupt(path, error) from error


def _slices(table: pa.Table, rows: int) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, rows):
        yield table.slice(start, rows)


def _last_tree(table: pa.Table) -> int:
    """Return the index of the first row of the table's last tree."""
    ids = table["question_id"]
    last = ids[-1].as_py()
    return int(pc.index(ids, last).as_py())


def _query(name: str) -> str:
    return (resources.files(__package__) / "queries" / f"{name}.sql").read_text("utf-8")
