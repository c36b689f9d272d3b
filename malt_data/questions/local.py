"""Local sources: a file, or a folder of files named by split."""

import re
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from itertools import chain
from pathlib import Path

from malt_data.display import escape
from malt_data.errors import QuestionsError
from malt_data.questions.files import FORMATS, Row, read_file
from malt_data.questions.source import SPLITS, Source, pick_split

_SHARD = re.compile(r"-\d+-of-\d+$")


def open_folder(folder: Path, split: str | None) -> Source:
    """Open a folder whose files are named by split: train.jsonl, or train-00000-of-00002.parquet.

    A folder whose only file is not named after a split is treated as that file.
    """
    files = sorted(p for p in folder.iterdir() if p.name.lower().endswith(FORMATS))
    if not files:
        raise QuestionsError(
            f"Folder {folder} has no .jsonl, .json, .csv or .parquet file. "
            "Pass a file, or a folder with train.jsonl, test.jsonl, …"
        )
    if len(files) == 1 and _stem(files[0].name) not in SPLITS:
        return open_file(files[0], folder.resolve().name, str(files[0]), split)
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_stem(file.name), []).append(file)
    ordered = sorted(splits, key=lambda name: (name not in SPLITS, name))
    chosen = pick_split(split, ordered, f"Folder {folder}")
    parts = splits[chosen]
    if len(parts) > 1 and not all("-of-" in part.name for part in parts):
        raise QuestionsError(
            f"Folder {folder} has two files for split {chosen}: {parts[0].name}, {parts[1].name}. "
            f"Pass one of them: --questions {parts[0]}"
        )
    others = [file for name in ordered if name != chosen for file in splits[name]]
    return Source(
        folder.resolve().name,
        chosen,
        chain.from_iterable(read_file(part, str(part)) for part in parts),
        rest=chain.from_iterable(read_file(file, str(file)) for file in others),
    )


def _stem(name: str) -> str:
    """Return the split in a file's name: `train` for train-00000-of-00002.parquet."""
    return _SHARD.sub("", name.split(".")[0] or name)


def open_file(
    file: Path | Traversable, source: str, where: str, split: str | None, license: str | None = None
) -> Source:
    """Open one file, which is one split unless its rows have a field `split` of their own.

    A file without split information takes the requested one (`eval --split test` on mine.jsonl).
    """
    if not file.name.lower().endswith(FORMATS):
        raise QuestionsError(
            f"{where} has an unsupported extension; expected .jsonl, .json, .csv or .parquet. "
            "Convert or rename the file."
        )
    stem = _stem(file.name)
    default = stem if stem in SPLITS else "train"
    first = next(read_file(file, where), None)
    if first is None or not isinstance(first[1].get("split"), str):
        available = [stem] if stem in SPLITS else list(SPLITS)
        chosen = pick_split(split, available, where)
        return Source(source, chosen, read_file(file, where), license, single_file=True)
    chosen = _find_split(split, read_file(file, where), default, where)

    def rows(*, of_split: bool) -> Iterator[Row]:
        every_row = read_file(file, where)
        return (row for row in every_row if (_split_of(row, default) == chosen) is of_split)

    return Source(
        source, chosen, rows(of_split=True), license, single_file=True, rest=rows(of_split=False)
    )


def _split_of(row: Row, default: str) -> str:
    return escape(str(row[1].get("split") or default))  # stored in the forest


def _find_split(requested: str | None, rows: Iterator[Row], default: str, where: str) -> str:
    """Pick a split of a file with a `split` field, reading no more rows than needed."""
    seen: dict[str, None] = {}
    for row in rows:
        seen[_split_of(row, default)] = None
        if (requested or "train") in seen:
            break
    return pick_split(requested, list(seen), where)
