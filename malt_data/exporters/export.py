"""Export one config of a forest as Parquet shards, atomically.

    report = export(open_forest("forest"), "refiner_dpo")
    report.rows       # {"train": 812, "validation": 90}
    report.dropped    # {"identical": 44, "truncated": 17}

`export.json` next to the shards records the settings, the counts and the state of the forest, so
that a push can detect a stale export and write it again with the same settings.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import ConfigDict, SerializerFunctionWrapHandler, model_serializer

from malt_data.errors import ExportError, SpecError, one_line
from malt_data.exporters.arrange import Arranged
from malt_data.exporters.layouts import TRACES, TRL, Layout, adapt, layout_named
from malt_data.exporters.rows import Rows
from malt_data.exporters.selection import Selection
from malt_data.exporters.shards import Shards
from malt_data.exporters.traces import Traces
from malt_data.forests.forest import Forest
from malt_data.graders import KINDS
from malt_data.schemas.exports import SPLITS, STAMP, Config, config_named
from malt_data.schemas.layout import EXPORT, EXPORTS
from malt_data.schemas.model import Model
from malt_data.schemas.pipeline import ChatTemplate
from malt_data.schemas.spec import Labels
from malt_data.storage.documents import read_json
from malt_data.storage.files import atomic_folder, recover
from malt_data.storage.folders import refuse_folder

if TYPE_CHECKING:
    import datasets

OnProgress = Callable[[int, int], None]


class ExportReport(Model):
    """The content of `export.json`: what was exported and left out. rows + dropped = candidates."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    format: str = STAMP.decode()
    config: str
    layout: str = TRL
    selection: Selection
    labels: Labels
    forest: str
    """The fingerprint of the forest then."""
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

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the layout if it is TRL's, as older versions refuse what is unknown."""
        values: dict[str, Any] = serialize(self)
        return {name: value for name, value in values.items() if (name, value) != ("layout", TRL)}

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


def export(
    forest: Forest,
    config: Config | str,
    selection: Selection | None = None,
    out: str | Path | None = None,
    *,
    layout: str = TRL,
    on_progress: OnProgress = lambda done, total: None,
) -> ExportReport:
    """Write one config to `out` (default: exports/<config> in the forest); return its report.

    layout: the tool that reads it, see `exporters/layouts.py`; if not TRL, the default folder is
    exports/<config>_<layout>.

    An existing export is replaced once the new one is complete. `on_progress` is called with the
    trees done and the total. Raises ExportError if `out` contains other files and StorageError if
    the disk is full; a failed export leaves nothing behind.
    """
    config = _resolve(config)
    chosen = selected_for(layout, forest, config, selection or Selection())
    target = export_folder(forest, config, out, layout=layout)
    if target.exists() and not (target / EXPORT).exists() and any(target.iterdir()):
        raise ExportError(f"{target} contains other files. Choose a new folder: --out NAME")
    with forest.reading(), atomic_folder(target, replace=True) as temporary:
        forest.require_labelled()
        before = forest.fingerprint()
        rows = _write(forest, config, chosen, layout_named(layout), temporary, on_progress)
        _write_beside(forest, config, layout_named(layout), temporary, target)
        report = summarize(forest, rows, before, layout)
        (temporary / EXPORT).write_text(report.to_json(), "utf-8")
    return report


def export_folder(
    forest: Forest, config: Config, out: str | Path | None = None, *, layout: str = TRL
) -> Path:
    """Return the folder of an export: `out`, or exports/<config>[_<layout>] in the forest.

    Raises SpecError if `out` cannot be replaced as a whole: `.`, a file, a forest's own files.
    """
    if out is None:
        forest.require_writable()
        name = config.name if layout == TRL else f"{config.name}_{layout}"
        return forest.folder / EXPORTS / name
    out = Path(out)
    if out.name in ("", ".."):
        raise SpecError(f"{out} cannot be replaced by an export. Choose a new folder: --out NAME")
    refuse_folder(out, inside=EXPORTS)
    return out


def to_datasets(
    forest: Forest, config: Config | str, selection: Selection | None = None
) -> "datasets.DatasetDict":
    """Return one config as in-memory datasets, without empty splits.

    For forests larger than memory, write shards with `export` and load those.
    """
    import datasets

    tables: dict[str, list[pa.Table]] = {}
    chosen = selection or Selection()
    with forest.reading(), Rows(forest, _resolve(config), chosen) as rows:
        forest.require_labelled()
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


def count(
    forest: Forest, config: Config, selection: Selection, *, layout: str = TRL
) -> ExportReport:
    """Return the report of an export without writing it."""
    chosen = selected_for(layout, forest, config, selection)
    with forest.reading(), Rows(forest, config, chosen) as rows:
        forest.require_labelled()
        for chunk in rows.chunks():
            rows.count(chunk)
        return summarize(forest, rows, forest.fingerprint(), layout)


def selected_for(layout: str, forest: Forest, config: Config, selection: Selection) -> Selection:
    """Return the selection as a layout needs it; raise SpecError if its tool cannot read that."""
    arrangement = layout_named(layout)
    if arrangement is None:
        return selection
    return adapt(arrangement, config, selection, forest.manifest.spec.chat_template)


def read_report(folder: Path) -> ExportReport:
    """Read `folder`/export.json; raise ExportError if it is missing or corrupt."""
    try:
        return ExportReport.model_validate(read_json(folder / EXPORT))
    except FileNotFoundError:
        raise ExportError(f"{folder} is not an export. Write one: malt-data export") from None
    except (OSError, ValueError, SpecError) as error:
        reason = one_line(error)
        raise ExportError(
            f"{folder / EXPORT} cannot be read ({reason}). Export again: malt-data export"
        ) from None


def exports_of(forest: Forest) -> dict[str, ExportReport]:
    """Return the reports of the exports in the forest's own folder, by folder name."""
    return {name: read_report(forest.folder / EXPORTS / name) for name in export_names(forest)}


def export_names(forest: Forest) -> list[str]:
    """Return the folder names of the exports in the forest's own folder."""
    recover(forest.folder / EXPORTS)  # a killed process may have left a complete one
    return sorted(path.parent.name for path in (forest.folder / EXPORTS).glob(f"*/{EXPORT}"))


def summarize(forest: Forest, rows: Rows, state: str, layout: str = TRL) -> ExportReport:
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
        layout=layout,
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
    layout: Layout | None,
    folder: Path,
    on_progress: OnProgress,
) -> Rows:
    total = len(forest.done)
    done = 0
    with (
        Rows(forest, config, selection) as rows,
        _writer(forest, config, layout, rows, folder) as shards,
    ):
        for chunk in rows.chunks():
            for split, batch in rows.of(chunk):
                shards.write(split, batch)
            done += len(chunk["question_id"].unique())
            on_progress(done, total)
    return rows


def _writer(
    forest: Forest, config: Config, layout: Layout | None, rows: Rows, folder: Path
) -> Shards | Arranged | Traces:
    if layout is None:
        return Shards(folder, rows.schema)
    if layout.name == TRACES:
        return Traces(forest, folder)
    return Arranged(layout, forest, config, rows.schema, folder)


def _write_beside(
    forest: Forest, config: Config, layout: Layout | None, folder: Path, target: Path
) -> None:
    """Write what a layout has next to the shards in `folder`, which will move to `target`."""
    if layout is None:
        return
    shards = {
        split: [path.relative_to(folder).as_posix() for path in layout.shards(folder, split)]
        for split in SPLITS
    }
    template = forest.manifest.spec.chat_template
    for name, content in layout.beside(config, template, target.absolute(), shards).items():
        (folder / name).write_text(content, "utf-8")
