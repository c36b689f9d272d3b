"""Where questions come from: the embedded set, benchmarks, files, the Hub, reasoning-gym.

A source becomes one stream of raw rows, read only as far as somebody asks, each with the words
that name it in a message. What a row means is `questions.py`'s business.

    opened = open_rows("gsm8k-copy/", split="test")
    next(opened.rows)    # ('gsm8k-copy/test.jsonl line 1', {'question': 'Janet’s ducks …', …})

A Hub dataset is pinned to one commit before a byte of it is read, by one request with a time limit.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from malt_data.builders.files import FORMATS, Row, read_file
from malt_data.builders.hub import dataset_rows, download, hub_errors, look_up
from malt_data.display import spelt
from malt_data.documents import parse_json
from malt_data.errors import QuestionsError, one_line
from malt_data.graders import Kind

GYM_SIZE = 500
"""Questions of a reasoning-gym task where neither `?size=` nor a larger limit says otherwise."""

_DEV = ("validation", "dev", "val", "valid")
_SHARD = re.compile(r"-\d+-of-\d+$")
_SPLITS = ("train", *_DEV, "test", "eval")


@dataclass(frozen=True)
class Rows:
    """One split of one source, opened. `lone`: its rows may name their source themselves."""

    source: str
    split: str
    rows: Iterator[Row]
    license: str | None = None
    lone: bool = False
    notes: tuple[str, ...] = ()
    kind: Kind | None = None
    """What form of answer the source asks for; None: it does not say, its golds decide together."""
    rest: Iterator[Row] = field(default_factory=lambda: iter(()))
    """The rows of its other splits, where they are at hand: they have a say in the kind."""


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark lives on the Hub; `aliases` maps a split's other names to its own."""

    repo: str
    configs: tuple[str | None, ...]
    splits: tuple[str, ...]
    license: str
    kind: Kind
    aliases: Mapping[str, str] = field(default_factory=dict)


_MATH_SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory",
    "prealgebra", "precalculus",
)  # fmt: skip
_SYMBOLIC: tuple[str, tuple[str, ...], str, Kind]
_SYMBOLIC = ("apple/GSM-Symbolic", ("test",), "CC-BY-NC-ND-4.0", "numeric")

BENCHMARKS = {
    "gsm8k": Benchmark("openai/gsm8k", ("main",), ("train", "test"), "MIT", "numeric"),
    "math": Benchmark(
        "EleutherAI/hendrycks_math", _MATH_SUBJECTS, ("train", "test"), "MIT", "math"
    ),
    "math500": Benchmark("HuggingFaceH4/MATH-500", (None,), ("test",), "MIT", "math"),
    # Its own test split has no answers; MALT (§5.1) and everybody else test on validation.
    "csqa": Benchmark(
        "tau/commonsense_qa",
        (None,),
        ("train", "validation"),
        "MIT",
        "choice",
        {"test": "validation"},
    ),
    "gsm-symbolic": Benchmark(_SYMBOLIC[0], ("main",), *_SYMBOLIC[1:]),
    "gsm-symbolic-p1": Benchmark(_SYMBOLIC[0], ("p1",), *_SYMBOLIC[1:]),
    "gsm-symbolic-p2": Benchmark(_SYMBOLIC[0], ("p2",), *_SYMBOLIC[1:]),
}


def open_rows(source: str, *, split: str | None = None, limit: int | None = None) -> Rows:
    """Open one split of `source`; None picks train, else the first there is.

    Raises QuestionsError for an unknown source or split, a torn file and an unreachable Hub;
    those of a row come while it is read. `limit` only sizes what is generated.
    """
    if source == "embedded":
        file = resources.files(__package__).joinpath("questions.jsonl")
        return _lone_file(file, "embedded", "embedded questions", split, license="Apache-2.0")
    if source in BENCHMARKS:
        return _benchmark(source, BENCHMARKS[source], split)
    if source.startswith("reasoning-gym:"):
        return _gym(source, split, limit)
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return _folder(path, split)
        if path.exists():
            return _lone_file(path, path.name, str(path), split)
    except OSError as error:
        raise QuestionsError(f"{path} cannot be read: {error.strerror}.") from None
    if source.startswith((".", "/", "~")) or source.lower().endswith(FORMATS):
        raise QuestionsError(
            f"there is no file or folder {source} (looked in {Path.cwd()}). "
            "Give an existing path, a benchmark's name or a Hub dataset user/name."
        )
    if found := _HUB_NAME.fullmatch(source):
        revision = found["revision"] or found["early"]
        return _hub(source, found["repo"], found["config"], revision, split)
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


def pick_split(
    wanted: str | None, available: list[str], where: str, aliases: Mapping[str, str] | None = None
) -> str:
    """Return the split meant by `wanted`; dev, val and validation are one.

    Raises QuestionsError that lists what there is.
    """
    if wanted is None:
        return next((name for name in _SPLITS if name in available), available[0])
    names: list[str] = [wanted, *(_DEV if wanted in _DEV else ())]
    names += [aliases[wanted]] if aliases and wanted in aliases else []
    for name in names:
        if name in available:
            return name
    raise QuestionsError(
        f"{where} has no split {wanted!r}; available: {', '.join(available)}. "
        f"Choose one: --split {available[0]}"
    )


# --- files -------------------------------------------------------------------------------------


def _folder(folder: Path, split: str | None) -> Rows:
    """Open a folder whose files are named by split: train.jsonl, or train-00000-of-00002.parquet.

    A folder with one file that is not named so is that file.
    """
    files = sorted(p for p in folder.iterdir() if p.name.lower().endswith(FORMATS))
    if not files:
        raise QuestionsError(
            f"folder {folder} holds no .jsonl, .json, .csv or .parquet file. "
            "Give a file, or a folder with train.jsonl, test.jsonl, …"
        )
    if len(files) == 1 and _stem(files[0].name) not in _SPLITS:
        return _lone_file(files[0], folder.resolve().name, str(files[0]), split)
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_stem(file.name), []).append(file)
    ordered = sorted(splits, key=lambda name: (name not in _SPLITS, name))
    chosen = pick_split(split, ordered, f"folder {folder}")
    parts = splits[chosen]
    if len(parts) > 1 and not all("-of-" in part.name for part in parts):
        raise QuestionsError(
            f"folder {folder} holds split {chosen} twice: {parts[0].name} and {parts[1].name}. "
            f"Give one of the files: --questions {parts[0]}"
        )
    others = [part for name in ordered if name != chosen for part in splits[name]]
    return Rows(
        folder.resolve().name,
        chosen,
        chain.from_iterable(read_file(part, str(part)) for part in parts),
        rest=chain.from_iterable(read_file(part, str(part)) for part in others),
    )


def _stem(name: str) -> str:
    """Return the split that a file's name states: `train` of train-00000-of-00002.parquet."""
    return _SHARD.sub("", name.split(".")[0] or name)


def _lone_file(
    file: Path | Traversable, source: str, where: str, split: str | None, license: str | None = None
) -> Rows:
    """Open one file, which is one split unless its rows have a field `split` of their own.

    A file that names no split is called what is asked for (`eval --split test` on mine.jsonl).
    """
    if not file.name.lower().endswith(FORMATS):
        raise QuestionsError(
            f"{where} is none of {', '.join(FORMATS[:4])}: cannot tell how to read it. "
            "Convert or rename it."
        )
    stem = _stem(file.name)
    default = stem if stem in _SPLITS else "train"
    first = next(read_file(file, where), None)
    if first is None or not isinstance(first[1].get("split"), str):
        available = [stem] if stem in _SPLITS else list(_SPLITS)
        chosen = pick_split(split, available, where)
        return Rows(source, chosen, read_file(file, where), license, lone=True)
    chosen = _find_split(split, read_file(file, where), default, where)

    def rows(*, of_split: bool) -> Iterator[Row]:
        found = read_file(file, where)
        return (row for row in found if (_split_of(row, default) == chosen) is of_split)

    return Rows(source, chosen, rows(of_split=True), license, lone=True, rest=rows(of_split=False))


def _split_of(row: Row, default: str) -> str:
    return spelt(str(row[1].get("split") or default))  # it is stored


def _find_split(wanted: str | None, rows: Iterator[Row], default: str, where: str) -> str:
    """Return the split to take of a file whose rows name theirs, reading no more than needed."""
    seen: dict[str, None] = {}
    for row in rows:
        seen[_split_of(row, default)] = None
        if (wanted or "train") in seen:
            break
    return pick_split(wanted, list(seen), where)


# --- the Hub -----------------------------------------------------------------------------------

_HUB_NAME = re.compile(
    r"(?:hf://datasets/)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<early>[\w./-]+))?"
    r"(?::(?P<config>[\w.+-]+))?(?:@(?P<revision>[\w./-]+))?"
)


def _benchmark(name: str, benchmark: Benchmark, split: str | None) -> Rows:
    chosen = pick_split(split, list(benchmark.splits), name, benchmark.aliases)
    note = f"{name} {split} is its split {chosen} on the Hub."
    with hub_errors(benchmark.repo):
        at = look_up(benchmark.repo, None)

    def rows() -> Iterator[Row]:
        for config in benchmark.configs:  # one after the other: a limit may end it early
            with hub_errors(benchmark.repo):
                splits = download(benchmark.repo, config, at)
            yield from dataset_rows(splits[chosen], f"{name}{f'/{config}' if config else ''}")

    notes = (note,) if split not in (None, chosen) else ()
    return Rows(
        name, chosen, rows(), benchmark.license, notes=(*notes, *at.notes), kind=benchmark.kind
    )


def _hub(
    source: str, repo: str, config: str | None, revision: str | None, split: str | None
) -> Rows:
    with hub_errors(repo, f"there is also no local file or folder {source}"):
        at = look_up(repo, revision)
        splits = download(repo, config, at)
    chosen = pick_split(split, list(splits), f"{repo} on the Hub")
    rows = dataset_rows(splits[chosen], f"{repo} {chosen}")
    others = [dataset_rows(splits[name], f"{repo} {name}") for name in splits if name != chosen]
    return Rows(repo, chosen, rows, at.license, notes=at.notes, rest=chain.from_iterable(others))


# --- reasoning-gym -----------------------------------------------------------------------------


def _gym(source: str, split: str | None, limit: int | None) -> Rows:
    """Generate `reasoning-gym:TASK?size=200&seed=1&…`; further keys are the task's own settings."""
    name, _, query = source.removeprefix("reasoning-gym:").partition("?")
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise QuestionsError(
            f"{source} needs reasoning-gym, which is not installed: "
            "pip install 'malt-data[reasoning-gym]'"
        ) from None
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        raise QuestionsError(
            f"reasoning-gym has no task {name!r}{f', did you mean {near[0]}?' if near else '.'} "
            f"It has {', '.join(sorted(DATASETS))}."
        )
    chosen = pick_split(split, list(_SPLITS), source)
    settings = {"size": max(GYM_SIZE, limit or 0), "seed": 0}
    settings |= {key: _literal(value) for key, value in parse_qsl(query, keep_blank_values=True)}
    try:
        made = reasoning_gym.create_dataset(name, **settings)
        indices = range(len(made))
    except (TypeError, ValueError, AssertionError) as error:
        raise QuestionsError(f"{source}: {one_line(error)}. Change what follows the '?'.") from None
    rows = ((f"{source} row {i + 1}", _gym_row(made[i])) for i in indices)
    return Rows(f"reasoning-gym:{name}", chosen, rows, "Apache-2.0")


def _gym_row(row: Mapping[str, Any]) -> dict[str, Any]:
    metadata = dict(row["metadata"])
    return {"question": row["question"], "answer": row["answer"], "metadata": metadata}


def _literal(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text
