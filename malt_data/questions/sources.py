"""Where questions come from: the embedded set, benchmarks, files, the Hub, reasoning-gym.

A source is a stream of raw rows, each with a location for messages; `loading.py` interprets them.
To add a type of source, write a module with a function that opens it, and call it in
`open_source`.

    opened = open_source("gsm8k-copy/", split="test")    # gsm8k-copy/test.jsonl
    next(opened.rows)    # ('gsm8k-copy/test.jsonl line 1', {'question': …, 'answer': …})

A Hub dataset is pinned to one commit before anything is read, by one request with a timeout.
"""

import difflib
import re
from importlib import resources
from pathlib import Path

from malt_data.errors import QuestionsError
from malt_data.questions.benchmarks import BENCHMARKS, open_benchmark
from malt_data.questions.files import FORMATS
from malt_data.questions.gym import open_gym
from malt_data.questions.hub import open_dataset
from malt_data.questions.local import open_file, open_folder
from malt_data.questions.source import Source

_HUB_NAME = re.compile(
    r"(?:hf://datasets/)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<early>[\w./-]+))?"
    r"(?::(?P<config>[\w.+-]+))?(?:@(?P<revision>[\w./-]+))?"
)


def open_source(source: str, *, split: str | None = None, limit: int | None = None) -> Source:
    """Open one split of `source`; None picks train, or else the first available.

    Raises QuestionsError for an unknown source or split, a corrupt file or an unreachable Hub;
    errors in rows are raised as they are read. `limit` only sizes generated sources.
    """
    if source == "embedded":
        file = resources.files(__package__).joinpath("embedded.jsonl")
        return open_file(file, "embedded", "embedded questions", split, license="Apache-2.0")
    if source in BENCHMARKS:
        return open_benchmark(source, split)
    if source.startswith("reasoning-gym:"):
        return open_gym(source, split, limit)
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return open_folder(path, split)
        if path.exists():
            return open_file(path, path.name, str(path), split)
    except OSError as error:
        raise QuestionsError(f"{path} cannot be read: {error.strerror}.") from None
    if source.startswith((".", "/", "~")) or source.lower().endswith(FORMATS):
        raise QuestionsError(
            f"No such file or folder: {source} (in {Path.cwd()}). "
            "Pass an existing path, a benchmark name or a Hub dataset user/name."
        )
    if match := _HUB_NAME.fullmatch(source):
        revision = match["revision"] or match["early"]
        return open_dataset(source, match["repo"], match["config"], revision, split)
    raise _unknown(source)


def _unknown(source: str) -> QuestionsError:
    names = ["embedded", *BENCHMARKS]
    matches = difflib.get_close_matches(source.lower(), names, n=1)
    hint = f" Did you mean {matches[0]}?" if matches else ""
    return QuestionsError(
        f"Unknown question source {source!r}, and no such file or folder in {Path.cwd()}.{hint} "
        f"Pass one of {', '.join(names)}, or reasoning-gym:TASK, a .jsonl, .json, .csv or .parquet "
        "file, a folder of such files named by split, or a Hub dataset user/name."
    )
