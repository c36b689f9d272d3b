"""Question datasets on the Hub: pinned to one commit, loaded with `datasets`, with clear errors.

    with hub_errors("openai/gsm8k"):
        splits = download("openai/gsm8k", "main", look_up("openai/gsm8k", None))

No other module loads questions with `datasets`; `storage/hub.py` has the Hub client.
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
LOCAL_HINT = "or pass a local copy: --questions path/to/file.jsonl"


@dataclass(frozen=True)
class Commit:
    """The dataset commit to read; `sha` is None when only a cached copy is available."""

    sha: str | None
    license: str | None = None
    notes: tuple[str, ...] = ()


def look_up(repo: str, revision: str | None) -> Commit:
    """Resolve the commit and license of `repo`; fall back on a cached copy if the Hub is down.

    This is one request with a timeout. `datasets` on its own tries six times, which takes 23 s
    without a network and minutes behind a firewall that drops packets.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = hub_api().dataset_info(repo, revision=revision, timeout=TIMEOUT_S)
    except HfHubHTTPError:
        raise
    except (http_error(), OSError):
        if revision is None and _cached(repo):
            return Commit(None, notes=(f"The Hub is unreachable; reading {repo} from the cache.",))
        raise
    license = info.card_data.get("license") if info.card_data else None
    license = ", ".join(map(str, license)) if isinstance(license, list) else license
    return Commit(info.sha, None if license is None else str(license))


def download(repo: str, config: str | None, commit: Commit) -> dict[str, Any]:
    """Return all splits of one config (`datasets` has no way to prepare just one)."""
    import datasets

    if commit.sha is not None:
        return dict(datasets.load_dataset(repo, config, revision=commit.sha))
    with _offline():
        return dict(datasets.load_dataset(repo, config))


def dataset_rows(dataset: Any, where: str) -> Iterator[Row]:
    """Yield the rows, with class indices replaced by their names (MMLU's 0 becomes `A`)."""
    class_names = {
        name: feature.int2str
        for name, feature in dataset.features.items()
        if type(feature).__name__ == "ClassLabel"
    }
    for number, row in enumerate(dataset, 1):
        labels = {
            key: to_name(row[key])
            for key, to_name in class_names.items()
            if row[key] not in (None, -1)
        }
        yield f"{where} row {number}", {**row, **labels}


@contextmanager
def hub_errors(repo: str, context: str = "") -> Iterator[None]:
    """Convert errors of `huggingface_hub` and `datasets` into QuestionsError."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub import errors

    suffix = f" ({context})" if context else ""
    try:
        yield
    except (errors.RevisionNotFoundError, errors.RepositoryNotFoundError) as error:
        problem = "has no such revision" if "Revision" in type(error).__name__ else "does not exist"
        if isinstance(error, errors.GatedRepoError):
            problem = "is gated"
        raise QuestionsError(
            f"Dataset {repo} {problem} on the Hub, or you do not have access{suffix}. "
            f"Check the name, log in (hf auth login), {LOCAL_HINT}"
        ) from None
    except (http_error(), ConnectionError, errors.LocalEntryNotFoundError) as error:
        raise QuestionsError(
            f"Dataset {repo} could not be downloaded from the Hub: {one_line(error)}{suffix}. "
            f"Check the network, {LOCAL_HINT}"
        ) from None
    except (DatasetsError, ValueError, RuntimeError, OSError) as error:
        raise QuestionsError(
            f"Dataset {repo} could not be loaded from the Hub: {one_line(error)}{suffix}. "
            f"Select a config with user/name:config, log in (hf auth login), {LOCAL_HINT}"
        ) from None


def _cached(repo: str) -> bool:
    from datasets import config
    from datasets.naming import camelcase_to_snakecase

    user, name = repo.split("/")
    return (Path(config.HF_DATASETS_CACHE) / f"{user}___{camelcase_to_snakecase(name)}").is_dir()


@contextmanager
def _offline() -> Iterator[None]:
    """Make `datasets` read its cache right away instead of retrying the Hub."""
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
    """Open one split of a Hub dataset, pinned to one commit."""
    with hub_errors(repo, f"there is also no local file or folder {source}"):
        commit = look_up(repo, revision)
        splits = download(repo, config, commit)
    chosen = pick_split(split, list(splits), f"{repo} on the Hub")
    rows = dataset_rows(splits[chosen], f"{repo} {chosen}")
    others = [dataset_rows(splits[name], f"{repo} {name}") for name in splits if name != chosen]
    return Source(
        repo, chosen, rows, commit.license, notes=commit.notes, rest=chain.from_iterable(others)
    )
