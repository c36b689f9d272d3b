"""Sources on this machine: a file, or a folder of files named by split."""

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

    A folder with one file that is not named so is that file.
    """
    files = sorted(p for p in folder.iterdir() if p.name.lower().endswith(FORMATS))
    if not files:
        raise QuestionsError(
            f"folder {folder} holds no .jsonl, .json, .csv or .parquet file. "
            "Give a file, or a folder with train.jsonl, test.jsonl, …"
        )
    if len(files) == 1 and _stem(files[0].name) not in SPLITS:
        return open_file(files[0], folder.resolve().name, str(files[0]), split)
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_stem(file.name), []).append(file)
    ordered = sorted(splits, key=lambda name: (name not in SPLITS, name))
    chosen = pick_split(split, ordered, f"folder {folder}")
    parts = splits[chosen]
    if len(parts) > 1 and not all("-of-" in part.name for part in parts):
        raise QuestionsError(
            f"folder {folder} holds split {chosen} twice: {parts[0].name} and {parts[1].name}. "
            f"Give one of the files: --questions {parts[0]}"
        )
    others = [part for name in ordered if name != chosen for part in splits[name]]
    return Source(
        folder.resolve().name,
        chosen,
        chain.from_iterable(read_file(part, str(part)) for part in parts),
        rest=chain.from_iterable(read_file(part, str(part)) for part in others),
    )


def _stem(name: str) -> str:
    """Return the split that a file's name states: `train` of train-00000-of-00002.parquet."""
    return _SHARD.sub("", name.split(".")[0] or name)


def open_file(
    file: Path | Traversable, source: str, where: str, split: str | None, license: str | None = None
) -> Source:
    """Open one file, which is one split unless its rows have a field `split` of their own.

    A file that names no split is called what is asked for (`eval --split test` on mine.jsonl).
    """
    if not file.name.lower().endswith(FORMATS):
        raise QuestionsError(
            f"{where} is none of a JSONL, JSON, CSV or Parquet file: cannot tell how to read it. "
            "Convert or rename it."
        )
    stem = _stem(file.name)
    default = stem if stem in SPLITS else "train"
    first = next(read_file(file, where), None)
    if first is None or not isinstance(first[1].get("split"), str):
        available = [stem] if stem in SPLITS else list(SPLITS)
        chosen = pick_split(split, available, where)
        return Source(source, chosen, read_file(file, where), license, lone=True)
    chosen = _find_split(split, read_file(file, where), default, where)

    def rows(*, of_split: bool) -> Iterator[Row]:
        found = read_file(file, where)
        return (row for row in found if (_split_of(row, default) == chosen) is of_split)

    return Source(
        source, chosen, rows(of_split=True), license, lone=True, rest=rows(of_split=False)
    )


def _split_of(row: Row, default: str) -> str:
    return escape(str(row[1].get("split") or default))  # it is stored


def _find_split(wanted: str | None, rows: Iterator[Row], default: str, where: str) -> str:
    """Return the split to take of a file whose rows name theirs, reading no more than needed."""
    seen: dict[str, None] = {}
    for row in rows:
        seen[_split_of(row, default)] = None
        if (wanted or "train") in seen:
            break
    return pick_split(wanted, list(seen), where)
