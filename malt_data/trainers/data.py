"""Load the training set of a role and stage, from the Hub at a pinned commit or from a folder.

    data = load_rows("me/trees@v1", "verifier", "dpo")
    data.commit, data.train.num_rows

All problems with the data are found here, before a model is loaded.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malt_data.errors import ExportError, TrainError, one_line
from malt_data.exporters.export import ExportReport, read_report
from malt_data.exporters.layouts import TRL
from malt_data.forests.manifest import read_manifest
from malt_data.schemas import layout
from malt_data.schemas.exports import Config, config_of
from malt_data.schemas.pipeline import Pipeline, require_role, shipped
from malt_data.storage.hub import fetch_export, fetch_manifest
from malt_data.trainers.recipe import Stage

if TYPE_CHECKING:
    import datasets

SHARED = "shared"
"""Instead of a role: the rows of all roles, for one adapter that plays all of them."""

_REQUIRED_COLUMNS = {"sft": {"prompt", "completion"}, "dpo": {"prompt", "chosen", "rejected"}}


@dataclass(frozen=True)
class Data:
    """Rows for one stage of one role. report: that of the export; None for other data. state: a
    hash of the exports' reports; empty for other data.
    """

    source: str
    commit: str | None
    config: str
    train: "datasets.Dataset"
    validation: "datasets.Dataset | None"
    report: ExportReport | None
    state: str

    @property
    def pinned(self) -> str:
        """The source with its commit, which identifies the rows exactly."""
        return f"{self.source.partition('@')[0]}@{self.commit}" if self.commit else self.source

    @property
    def sampled_by(self) -> str | None:
        return self.report.model if self.report else None


def pipeline_of(source: str) -> tuple[Pipeline, str]:
    """Return the pipeline that grew a dataset, and its source, on the Hub with the newest commit.

    A dataset without a manifest counts as grown by the shipped `malt`. Raises ForestError or
    HubError if it cannot be read.
    """
    folder = _folder(source)
    if folder is None:
        folder, commit = fetch_manifest(source)
        source = f"{source.partition('@')[0]}@{commit}"
    known = (folder / layout.MANIFEST).exists()
    return (read_manifest(folder).spec.pipeline if known else shipped()), source


def load_rows(source: str, role: str, stage: Stage) -> Data:
    """Return the rows of `<role>_<stage>` in `source`.

    source: `user/name[@revision]` on the Hub, a forest, or the folder of one export. role: may be
    SHARED. Raises SpecError for a role that does not speak in the forest, TrainError if there are
    no rows that TRL can train on, HubError if the Hub fails.
    """
    if role == SHARED:
        return _load_all_roles(source, stage)
    config = config_of(role, stage)
    commit = None
    folder = _local(source, config)
    if folder is None:
        folder, commit = fetch_export(source, config)
    return _read(folder, source, commit, config)


def _load_all_roles(source: str, stage: Stage) -> Data:
    """Return the rows of all roles, without a report, as each export has its own."""
    import datasets

    by_role = [load_rows(source, role, stage) for role in pipeline_of(source)[0].roles]

    def concatenate(splits: "list[datasets.Dataset | None]") -> "datasets.Dataset | None":
        rows = [split for split in splits if split is not None]
        return datasets.concatenate_datasets(rows) if rows else None

    try:
        train: Any = concatenate([data.train for data in by_role])
        validation = concatenate([data.validation for data in by_role])
    except ValueError:  # columns of different types
        raise TrainError(
            f"{source} has some exports with thinking and some without. Export all roles with the "
            f"same settings: malt-data export {source} --format {stage}"
        ) from None
    state = _hash("".join(data.state for data in by_role))
    return Data(source, by_role[0].commit, f"{SHARED}_{stage}", train, validation, None, state)


def _folder(source: str) -> Path | None:
    """Return the folder of a local source; None for a name on the Hub."""
    path = Path(source)
    if not path.exists() and (source.count("/") == 1 and not source.startswith((".", "/", "~"))):
        return None
    return path


def _local(source: str, config: Config) -> Path | None:
    """Return the folder of the export if `source` is local; None for a name on the Hub."""
    path = _folder(source)
    if path is None or (path / layout.EXPORT).exists():
        return path
    if (path / layout.MANIFEST).exists():
        folder = path / layout.EXPORTS / config.name
        if not (folder / layout.EXPORT).exists():
            require_role(str(config.role), read_manifest(path).spec.pipeline.roles)
            raise TrainError(
                f"{path} has no export {config.name}. Write it: malt-data export {path} "
                f"--role {config.role} --format {config.format.name}"
            )
        return folder
    if any(path.glob("*.parquet")):
        return path
    raise TrainError(
        f"{source} is not a dataset. Use a forest, a folder that malt-data export wrote, or "
        "user/name[@revision] on the Hub."
    )


def _read(folder: Path, source: str, commit: str | None, config: Config) -> Data:
    report = read_report(folder) if (folder / layout.EXPORT).exists() else None
    if report is not None and report.config != config.name:
        raise TrainError(
            f"{source} contains {report.config}, not {config.name}. Pass the folder of that "
            f"export, or write it: malt-data export --role {config.role} "
            f"--format {config.format.name}"
        )
    if report is not None and report.layout != TRL:
        raise TrainError(
            f"{source} is in the layout of {report.layout}. Export for TRL: leave out --layout."
        )
    train = _split(folder, "train", source, config)
    validation = _split(folder, "validation", source, config)
    if train is None:
        dropped = ", ".join(f"{n} {r}" for r, n in report.dropped.items()) if report else ""
        raise TrainError(
            f"{source} has no rows for {config.name} (left out: {dropped or 'nothing'}). "
            "Grow more trees, or export with a lower threshold or other settings."
        )
    state = _hash(report.to_json()) if report else ""
    return Data(source, commit, config.name, train, validation, report, state)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _split(folder: Path, split: str, source: str, config: Config) -> "datasets.Dataset | None":
    import datasets

    files = sorted(str(path) for path in folder.glob(f"{split}-*.parquet"))
    if not files:
        return None
    try:
        rows: Any = datasets.load_dataset("parquet", data_files=files, split="train")
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise ExportError(
            f"{source}: {split} cannot be read ({one_line(error)}). Export again: malt-data export"
        ) from None
    if missing := _REQUIRED_COLUMNS[config.format.name] - set(rows.column_names):
        raise TrainError(
            f"{source} is not {config.format.name} data: it has no column "
            f"{sorted(missing)[0]!r}, only {', '.join(rows.column_names)}."
        )
    return rows if len(rows) else None
