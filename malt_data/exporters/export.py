"""Export one config of a forest as Parquet shards, atomically.

    report = export(open_forest("forest"), "refiner_dpo")
    report.rows       # {"train": 812, "validation": 90}
    report.dropped    # {"identical": 44, "truncated": 17}

`export.json` next to the shards records the settings, the counts and the state of the forest, so
that a push can detect a stale export and write it again with the same settings.
"""

import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict

from malt_data.errors import ExportError, SpecError, one_line
from malt_data.exporters.rows import Rows
from malt_data.exporters.selection import Selection
from malt_data.forests.forest import Forest
from malt_data.graders import KINDS
from malt_data.schemas import layout
from malt_data.schemas.exports import SPLITS, STAMP, Config, config_named
from malt_data.schemas.model import Model
from malt_data.schemas.pipeline import ChatTemplate
from malt_data.schemas.spec import Labels
from malt_data.storage.documents import read_json
from malt_data.storage.files import atomic_folder, recover
from malt_data.storage.folders import refuse_folder

if TYPE_CHECKING:
    import datasets

_SHARD_BYTES = 256 * 2**20
_QUEUE = 4
"""Batches waiting to be written: about as many as one chunk yields. With fewer, the queries of the
next chunk would wait for the writer."""


OnProgress = Callable[[int, int], None]


class ExportReport(Model):
    """The content of `export.json`: what was exported and left out. rows + dropped = candidates."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    format: str = STAMP.decode()
    config: str
    selection: Selection
    labels: Labels
    forest: str
    """Fingerprint of the forest's state, see `fingerprint`."""
    model: str | None
    sampling: dict[str, Any] = {}
    """Settings of the build that sampled the rows; see `sampling_of`."""
    candidates: int = 0
    rows: dict[str, int] = {}
    dropped: dict[str, int] = {}
    dropped_by_split: dict[str, dict[str, int]] = {}

    @property
    def total(self) -> int:
        return sum(self.rows.values())

    @property
    def chat_template(self) -> ChatTemplate:
        """How the rows' prompts were put to the model."""
        return ChatTemplate(**self.sampling.get("chat_template", {}))

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


def export(
    forest: Forest,
    config: Config | str,
    selection: Selection | None = None,
    out: str | Path | None = None,
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> ExportReport:
    """Write one config to `out` (default: exports/<config> in the forest); return its report.

    An existing export is replaced once the new one is complete. `on_progress` is called with the
    trees done and the total. Raises ExportError if `out` contains other files and StorageError if
    the disk is full; a failed export leaves nothing behind.
    """
    config = _resolve(config)
    chosen = selection or Selection()
    target = export_folder(forest, config, out)
    if target.exists() and not (target / layout.EXPORT).exists() and any(target.iterdir()):
        raise ExportError(f"{target} contains other files. Choose a new folder: --out NAME")
    with forest.reading(), atomic_folder(target, replace=True) as temporary:
        forest.require_labelled()
        before = fingerprint(forest)
        rows = _write(forest, config, chosen, temporary, on_progress)
        report = summarize(forest, rows, before)
        (temporary / layout.EXPORT).write_text(report.to_json(), "utf-8")
    return report


def export_folder(forest: Forest, config: Config, out: str | Path | None = None) -> Path:
    """Return the folder of an export: `out`, or exports/<config> in the forest.

    Raises SpecError if `out` cannot be replaced as a whole: `.`, a file, a forest's own files.
    """
    if out is None:
        forest.require_writable()
        return forest.folder / layout.EXPORTS / config.name
    out = Path(out)
    if out.name in ("", ".."):
        raise SpecError(f"{out} cannot be replaced by an export. Choose a new folder: --out NAME")
    refuse_folder(out, inside=layout.EXPORTS)
    return out


def to_datasets(
    forest: Forest, config: Config | str, selection: Selection | None = None
) -> "datasets.DatasetDict":
    """Return one config as in-memory datasets, without empty splits.

    For forests larger than memory, write shards with `export` and load those.
    """
    import datasets

    tables: dict[str, list[pa.Table]] = {}
    with Rows(forest, _resolve(config), selection or Selection()) as rows:
        for split, batch in rows.batches():
            tables.setdefault(split, []).append(batch.replace_schema_metadata(None))
    return datasets.DatasetDict(
        {
            split: datasets.Dataset(datasets.table.InMemoryTable(pa.concat_tables(parts)))
            for split, parts in tables.items()
        }
    )


def _resolve(config: Config | str) -> Config:
    return config_named(config) if isinstance(config, str) else config


def count(forest: Forest, config: Config, selection: Selection) -> ExportReport:
    """Return the report of an export without writing it."""
    with Rows(forest, config, selection) as rows:
        for chunk in rows.chunks():
            rows.count(chunk)
    return summarize(forest, rows, fingerprint(forest))


def read_report(folder: Path) -> ExportReport:
    """Read `folder`/export.json; raise ExportError if it is missing or corrupt."""
    try:
        return ExportReport.model_validate(read_json(folder / layout.EXPORT))
    except FileNotFoundError:
        raise ExportError(f"{folder} is not an export. Write one: malt-data export") from None
    except (OSError, ValueError, SpecError) as error:
        reason = one_line(error)
        raise ExportError(
            f"{folder / layout.EXPORT} cannot be read ({reason}). Export again: malt-data export"
        ) from None


def exports_of(forest: Forest) -> dict[str, ExportReport]:
    """Return the reports of the exports in the forest's own folder, by config name."""
    recover(forest.folder / layout.EXPORTS)  # a killed process may have left a complete one
    paths = sorted((forest.folder / layout.EXPORTS).glob(f"*/{layout.EXPORT}"))
    return {path.parent.name: read_report(path.parent) for path in paths}


def fingerprint(forest: Forest) -> str:
    """Return a hash (16 hex digits) of part names, sizes and labels: the state of the forest."""
    facts = [f"{path.name}:{path.stat().st_size}" for path in forest.parts.paths()]
    state = "\n".join([forest.manifest.labelled.footer().decode(), *facts])
    return hashlib.sha256(state.encode()).hexdigest()[:16]


def summarize(forest: Forest, rows: Rows, state: str) -> ExportReport:
    """Return the counts of `rows` as a report. state: the forest's fingerprint at the start."""
    counts = rows.counts
    dropped = {
        split: {
            reason: count
            for (row_split, reason), count in sorted(counts.items(), key=str)
            if row_split == split and reason
        }
        for split in SPLITS
    }
    reasons = sorted({reason for by_reason in dropped.values() for reason in by_reason})
    return ExportReport(
        config=rows.config.name,
        selection=rows.selection,
        labels=forest.manifest.labels,
        forest=state,
        model=forest.manifest.spec.model,
        sampling=sampling_of(forest),
        candidates=counts.total(),
        rows={split: counts[split, None] for split in SPLITS if counts[split, None]},
        dropped={r: sum(by_reason.get(r, 0) for by_reason in dropped.values()) for r in reasons},
        dropped_by_split={split: by_reason for split, by_reason in dropped.items() if by_reason},
    )


def sampling_of(forest: Forest) -> dict[str, Any]:
    """Return pipeline, sampling, token limit, prompts, grader and the kind of the questions.

    A team trained on the export expects the same settings at inference. The grader is the build's,
    which decided how questions were prompted, not the one of a later relabel.
    """
    spec = forest.manifest.spec
    lettered = {name for name, kind in KINDS.items() if kind.lettered}
    free = set(forest.questions().select("kind").collect()["kind"]) - lettered
    kind = {"kind": free.pop()} if len(free) == 1 else {}
    settings = spec.model_dump(include={"temperature", "max_tokens", "prompts", "grader"}) | kind
    if spec.sampling:
        settings["sampling"] = spec.sampling
    if spec.chat_template != ChatTemplate():
        settings["chat_template"] = spec.chat_template.model_dump(mode="json")
    # Without defaults: TOML, in which a team stores this, has no null.
    pipeline = spec.chain.model_dump(mode="json", exclude_defaults=True)
    return settings | {"pipeline": pipeline}


def _write(
    forest: Forest,
    config: Config,
    selection: Selection,
    folder: Path,
    on_progress: OnProgress,
) -> Rows:
    total = len(forest.done)
    done = 0
    with Rows(forest, config, selection) as rows, Shards(folder, rows.schema) as shards:
        for chunk in rows.chunks():
            for split, batch in rows.of(chunk):
                shards.write(split, batch)
            done += len(chunk["question_id"].unique())
            on_progress(done, total)
    return rows


class Shards:
    """Writes `train-00000.parquet`, `train-00001.parquet`, … on a background thread.

    Content-defined chunking and one row group per batch keep unchanged rows byte-equal, so the Hub
    stores them once.
    """

    def __init__(self, folder: Path, schema: pa.Schema, shard_bytes: int | None = None) -> None:
        self._folder = folder
        self._schema = schema
        self._shard_bytes = shard_bytes or _SHARD_BYTES
        self._open: dict[str, tuple[Any, pq.ParquetWriter]] = {}
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
                self._close(split)

    def write(self, split: str, rows: pa.Table) -> None:
        """Queue rows to be written; blocks while more than `_QUEUE` batches are waiting."""
        self._pending.append(self._thread.submit(self._append, split, rows))
        if len(self._pending) > _QUEUE:
            self._pending.popleft().result()

    def _append(self, split: str, rows: pa.Table) -> None:
        if split not in self._open:
            path = self._folder / f"{split}-{self._next_index[split]:05d}.parquet"
            sink = pa.OSFile(str(path), "wb")
            self._next_index[split] += 1
            self._open[split] = (
                sink,
                pq.ParquetWriter(
                    sink,
                    self._schema,
                    compression="zstd",
                    compression_level=3,
                    use_content_defined_chunking=True,
                ),
            )
        sink, writer = self._open[split]
        writer.write_table(rows)
        if sink.tell() >= self._shard_bytes:
            self._close(split)

    def _close(self, split: str) -> None:
        sink, writer = self._open.pop(split)
        writer.close()
        sink.close()
