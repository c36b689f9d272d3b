"""The training set of one role and stage, by name: from the Hub at a pinned commit, or a folder.

    data = load_rows("me/trees@v1", "verifier", "dpo")
    data.commit, data.train.num_rows

Everything that can be wrong with the data is said here, before a model is loaded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malt_data.errors import ExportError, TrainError, one_line
from malt_data.exporters.export import ExportReport, read_report
from malt_data.schemas import layout
from malt_data.schemas.exports import Config, config_of
from malt_data.schemas.roles import ROLES
from malt_data.storage.hub import fetch_export
from malt_data.trainers.recipe import Stage

if TYPE_CHECKING:
    import datasets

SHARED = "shared"
"""In place of a role: the rows of all roles together, for one adapter that plays them all."""

_NEEDED = {"sft": {"prompt", "completion"}, "dpo": {"prompt", "chosen", "rejected"}}


@dataclass(frozen=True)
class Data:
    """Rows for one stage of one role. `report` is the export's own, None for foreign data."""

    source: str
    commit: str | None
    config: str
    train: "datasets.Dataset"
    validation: "datasets.Dataset | None"
    report: ExportReport | None

    @property
    def pinned(self) -> str:
        """The source with its commit: what names exactly these rows."""
        return f"{self.source.partition('@')[0]}@{self.commit}" if self.commit else self.source

    @property
    def sampled_by(self) -> str | None:
        return self.report.model if self.report else None


def load_rows(source: str, role: str, stage: Stage) -> Data:
    """Return the rows of `<role>_<stage>` in `source`.

    source: `user/name[@revision]` on the Hub, a forest, or the folder of one export. role: or
    SHARED. Raises TrainError where there are none, or none that TRL could train on; HubError from
    the Hub.
    """
    if role == SHARED:
        return _together(source, stage)
    config = config_of(role, stage)
    commit = None
    folder = _local(source, config)
    if folder is None:
        folder, commit = fetch_export(source, config)
    return _read(folder, source, commit, config)


def _together(source: str, stage: Stage) -> Data:
    """Return the rows of all roles; what each export left out is in its own report."""
    import datasets

    found = [load_rows(source, role, stage) for role in ROLES]

    def joined(parts: "list[datasets.Dataset | None]") -> "datasets.Dataset | None":
        rows = [part for part in parts if part is not None]
        return datasets.concatenate_datasets(rows) if rows else None

    train: Any = joined([data.train for data in found])
    validation = joined([data.validation for data in found])
    return Data(source, found[0].commit, f"{SHARED}_{stage}", train, validation, None)


def _local(source: str, config: Config) -> Path | None:
    """Return the folder of the export where `source` is a folder; None for a name on the Hub."""
    path = Path(source)
    if not path.exists() and (source.count("/") == 1 and not source.startswith((".", "/", "~"))):
        return None
    if (path / layout.EXPORT).exists():
        return path
    if (path / layout.MANIFEST).exists():
        found = path / layout.EXPORTS / config.name
        if not (found / layout.EXPORT).exists():
            raise TrainError(
                f"{path} has no export {config.name}. Make it: malt-data export {path} "
                f"--role {config.role} --format {config.format.name}"
            )
        return found
    if any(path.glob("*.parquet")):
        return path
    raise TrainError(
        f"{source} is no dataset: name a forest, a folder that malt-data export wrote, or "
        "user/name[@revision] on the Hub."
    )


def _read(folder: Path, source: str, commit: str | None, config: Config) -> Data:
    report = read_report(folder) if (folder / layout.EXPORT).exists() else None
    if report is not None and report.config != config.name:
        raise TrainError(
            f"{source} holds {report.config}, but {config.name} was asked for. Name the folder of "
            f"that export, or make it: malt-data export --role {config.role} "
            f"--format {config.format.name}"
        )
    train = _split(folder, "train", source, config)
    validation = _split(folder, "validation", source, config)
    if train is None:
        dropped = ", ".join(f"{n} {why}" for why, n in report.dropped.items()) if report else ""
        raise TrainError(
            f"{source} has no rows to train {config.name} on (left out: {dropped or 'nothing'}). "
            "Grow more trees, or export with a lower threshold or other settings."
        )
    return Data(source, commit, config.name, train, validation, report)


def _split(folder: Path, split: str, source: str, config: Config) -> "datasets.Dataset | None":
    import datasets

    files = sorted(str(path) for path in folder.glob(f"{split}-*.parquet"))
    if not files:
        return None
    try:
        rows: Any = datasets.load_dataset("parquet", data_files=files, split="train")
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise ExportError(f"{source}: {split} cannot be read ({one_line(error)}).") from None
    if missing := _NEEDED[config.format.name] - set(rows.column_names):
        raise TrainError(
            f"{source} is not {config.format.name} data: it has no column "
            f"{sorted(missing)[0]!r}, only {', '.join(rows.column_names)}."
        )
    return rows if len(rows) else None
