"""Verify an export: its shards against `export.json` and against the forest.

problems = verify_export(Path("forest/exports/refiner_dpo"))    # [] if there are none
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow.parquet as pq

from malt_data.errors import MaltError, StorageError, one_line
from malt_data.exporters.export import count, read_report
from malt_data.exporters.layouts import TRACES, Layout, layout_named
from malt_data.exporters.traces import read_session
from malt_data.forests.forest import Forest, open_forest
from malt_data.schemas import layout
from malt_data.schemas.exports import SPLITS, STAMP, config_named
from malt_data.schemas.layout import ORIGIN
from malt_data.storage.parquet import read_schema


def verify_export(folder: str | Path) -> list[str]:
    """Return one sentence per problem.

    Checks the stamp, columns and rows of every shard, that no question is in both splits, and, if
    the folder is inside a forest, that the forest still gives the same counts.
    """
    folder = Path(folder)
    try:
        report = read_report(folder)
        columns = config_named(report.config).schema_for(report.chat_template).names
        arranged = layout_named(report.layout)
    except MaltError as error:
        return [str(error)]
    problems: list[str] = []
    rows: dict[str, int] = {}
    questions: dict[str, set[str]] = {}
    for path in _with_ids(folder, arranged):
        split = path.name.partition("-")[0]
        try:
            schema = read_schema(path)
            ids = pq.read_table(path, columns=["question_id"], partitioning=None)["question_id"]
        except (StorageError, OSError, ValueError) as error:
            problems.append(f"{path.name}: {str(error).splitlines()[0]}")
            continue
        if arranged is None and (schema.metadata or {}).get(b"malt.schema") != STAMP:
            problems.append(f"{path.name}: it is not stamped {STAMP.decode()}.")
        if arranged is None and schema.names != columns:
            problems.append(f"{path.name}: its columns are not those of {report.config}.")
        rows[split] = rows.get(split, 0) + len(ids)
        questions.setdefault(split, set()).update(ids.to_pylist())
    if report.layout == TRACES:
        problems += _check_sessions(folder, rows, questions)
    elif arranged is not None and arranged.suffix == "jsonl":
        problems += _check_lines(folder, arranged, rows)
    if rows != report.rows:
        problems.append(f"it has {rows} rows, but export.json says {report.rows}.")
    if both := set.intersection(*questions.values()) if len(questions) > 1 else set():
        problems.append(f"{len(both)} questions are in train and validation, e.g. {min(both)}.")
    if report.total + sum(report.dropped.values()) != report.candidates:
        problems.append("rows and dropped candidates do not add up to the candidates.")
    home = folder.absolute().parent.parent
    if folder.absolute().parent.name == layout.EXPORTS and (home / layout.MANIFEST).exists():
        try:
            problems += _compare(open_forest(home), folder)
        except MaltError as error:  # its forest is damaged, its tokenizer is not available
            problems.append(str(error))
    return problems


def _with_ids(folder: Path, layout: Layout | None) -> list[Path]:
    """Return the Parquet files with the ids of the rows."""
    if layout is None:
        return sorted(folder.glob("*.parquet"))
    return [path for split in SPLITS for path in layout.origins(folder, split)]


def _check_lines(folder: Path, layout: Layout, rows: Mapping[str, int]) -> Iterator[str]:
    """Yield problems of JSONL shards: lines that are no JSON, and ids of more or fewer lines."""
    for split in SPLITS:
        count = 0
        for path in layout.shards(folder, split):
            try:
                with path.open(encoding="utf-8") as file:
                    count += sum(isinstance(json.loads(line), dict) for line in file)
            except (OSError, ValueError) as error:
                yield f"{path.name}: {one_line(error)}"
        if count != (known := rows.get(split, 0)):
            yield f"{split}: it has {count} lines, but {ORIGIN}/ has the ids of {known}."


def _check_sessions(
    folder: Path, rows: dict[str, int], questions: dict[str, set[str]]
) -> Iterator[str]:
    """Add up the sessions and their questions; yield the files that are none."""
    for split in SPLITS:
        for path in sorted((folder / split).glob("*.jsonl")):
            try:
                questions.setdefault(split, set()).add(read_session(path))
            except (OSError, ValueError, KeyError, TypeError) as error:
                yield f"{path.name}: it is no session ({one_line(error)})."
                continue
            rows[split] = rows.get(split, 0) + 1


def _compare(forest: Forest, folder: Path) -> list[str]:
    """Compare an export with what its forest gives now."""
    report = read_report(folder)
    if report.forest != forest.fingerprint():
        return [f"it is from an earlier state of {forest.folder}: export again."]
    fresh = count(forest, config_named(report.config), report.selection, layout=report.layout)
    if fresh.model_copy(update={"sampling": report.sampling}) != report:
        return [f"{forest.folder} now gives different rows: export again."]
    return []
