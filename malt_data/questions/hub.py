"""Question datasets on the Hub: pinned to one commit, read through `datasets`, explained in words.

    with hub_errors("openai/gsm8k"):
        splits = download("openai/gsm8k", "main", look_up("openai/gsm8k", None))

The only module that loads question data with `datasets`; `storage/hub.py` is the Hub itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from malt_data.errors import QuestionsError, one_line
from malt_data.questions.files import Row
from malt_data.questions.source import Source, pick_split
from malt_data.storage.hub import http_error, hub_api

TIMEOUT_S = 10.0
LOCAL_HINT = "or give a local copy: --questions path/to/file.jsonl"


@dataclass(frozen=True)
class Commit:
    """The commit of a dataset to read; None where only the copy in the cache can be had."""

    sha: str | None
    license: str | None = None
    notes: tuple[str, ...] = ()


def look_up(repo: str, revision: str | None) -> Commit:
    """Ask the Hub, once and with a time limit, what `repo` is; fall back on a cached copy.

    `datasets` itself would ask six times over, 23 s without a network and minutes behind a
    firewall that drops packets.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = hub_api().dataset_info(repo, revision=revision, timeout=TIMEOUT_S)
    except HfHubHTTPError:
        raise
    except (http_error(), OSError):
        if revision is None and _cached(repo):
            return Commit(None, notes=(f"The Hub is unreachable; {repo} is read from the cache.",))
        raise
    terms = info.card_data.get("license") if info.card_data else None
    terms = ", ".join(map(str, terms)) if isinstance(terms, list) else terms
    return Commit(info.sha, None if terms is None else str(terms))


def download(repo: str, config: str | None, at: Commit) -> dict[str, Any]:
    """Return the splits of one config (`datasets` prepares all of them in any case)."""
    import datasets

    if at.sha is not None:
        return dict(datasets.load_dataset(repo, config, revision=at.sha))
    with _offline():
        return dict(datasets.load_dataset(repo, config))


def dataset_rows(dataset: Any, where: str) -> Iterator[Row]:
    """Yield the rows; a class number becomes the name it stands for (MMLU's 0 is `A`)."""
    names = {
        name: feature.int2str
        for name, feature in dataset.features.items()
        if type(feature).__name__ == "ClassLabel"
    }
    for number, row in enumerate(dataset, 1):
        labels = {k: to_name(row[k]) for k, to_name in names.items() if row[k] not in (None, -1)}
        yield f"{where} row {number}", {**row, **labels}


@contextmanager
def hub_errors(repo: str, also: str = "") -> Iterator[None]:
    """Turn what `huggingface_hub` and `datasets` raise into one sentence each."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub import errors

    tail = f" ({also})" if also else ""
    try:
        yield
    except (errors.RevisionNotFoundError, errors.RepositoryNotFoundError) as error:
        missing = "has no such revision" if "Revision" in type(error).__name__ else "does not exist"
        if isinstance(error, errors.GatedRepoError):
            missing = "is gated"
        raise QuestionsError(
            f"dataset {repo} {missing} on the Hub, or you may not read it{tail}. Check the name, "
            f"log in (hf auth login), {LOCAL_HINT}"
        ) from None
    except (http_error(), ConnectionError, errors.LocalEntryNotFoundError) as error:
        raise QuestionsError(
            f"dataset {repo} could not be had from the Hub: {one_line(error)}{tail}. "
            f"Check the network, {LOCAL_HINT}"
        ) from None
    except (DatasetsError, ValueError, RuntimeError, OSError) as error:
        raise QuestionsError(
            f"dataset {repo} on the Hub cannot be loaded: {one_line(error)}{tail}. "
            f"Name a config with user/name:config, log in (hf auth login), {LOCAL_HINT}"
        ) from None


def _cached(repo: str) -> bool:
    from datasets import config
    from datasets.naming import camelcase_to_snakecase

    user, name = repo.split("/")
    return (Path(config.HF_DATASETS_CACHE) / f"{user}___{camelcase_to_snakecase(name)}").is_dir()


@contextmanager
def _offline() -> Iterator[None]:
    """Let `datasets` go to its cache at once instead of asking the Hub again and again."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def open_dataset(
    source: str, repo: str, config: str | None, revision: str | None, split: str | None
) -> Source:
    with hub_errors(repo, f"there is also no local file or folder {source}"):
        at = look_up(repo, revision)
        splits = download(repo, config, at)
    chosen = pick_split(split, list(splits), f"{repo} on the Hub")
    rows = dataset_rows(splits[chosen], f"{repo} {chosen}")
    others = [dataset_rows(splits[name], f"{repo} {name}") for name in splits if name != chosen]
    return Source(repo, chosen, rows, at.license, notes=at.notes, rest=chain.from_iterable(others))
