"""Where questions come from: the embedded set, benchmarks, files, the Hub, reasoning-gym.

A source becomes one stream of raw rows, each with the words that name it in a message. What a row
means is `loading.py`'s business. To add a sort of source: a module with a function that opens it,
and a line in `open_source`.

    opened = open_source("gsm8k-copy/", split="test")    # gsm8k-copy/test.jsonl
    next(opened.rows)    # ('gsm8k-copy/test.jsonl line 1', {'question': …, 'answer': …})

A Hub dataset is pinned to one commit before a byte of it is read, by one request with a time limit.
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
    """Open one split of `source`; None picks train, else the first there is.

    Raises QuestionsError for an unknown source or split, a corrupt file and an unreachable Hub;
    those of a row come while it is read. `limit` only sizes what is generated.
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
            f"there is no file or folder {source} (looked in {Path.cwd()}). "
            "Give an existing path, a benchmark's name or a Hub dataset user/name."
        )
    if found := _HUB_NAME.fullmatch(source):
        revision = found["revision"] or found["early"]
        return open_dataset(source, found["repo"], found["config"], revision, split)
    raise _unknown(source)


def _unknown(source: str) -> QuestionsError:
    names = ["embedded", *BENCHMARKS]
    near = difflib.get_close_matches(source.lower(), names, n=1)
    return QuestionsError(
        f"unknown question source {source!r}{f', did you mean {near[0]}?' if near else '.'} "
        f"There is also no file or folder of that name in {Path.cwd()}. Possible are "
        f"{', '.join(names)}, reasoning-gym:TASK, a .jsonl, .json, .csv or .parquet file, a folder "
        "of such files named by split, or a Hub dataset user/name."
    )
