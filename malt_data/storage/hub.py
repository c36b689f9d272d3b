"""The Hub client: names, downloads into its cache, commits, and what went wrong in words.

    with explain_hub_errors("me/trees"):
        commit = head("me/trees", "main")

The one module that talks to the Hub and knows its client's exceptions. Question datasets, which
`datasets` downloads, are in `questions/hub.py`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import tenacity

from malt_data.errors import HubError, MaltError, SpecError, one_line
from malt_data.schemas import layout
from malt_data.schemas.exports import Config

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

HUB = "hf://datasets/"
"""What a forest's name on the Hub begins with."""
TREES = [layout.MANIFEST, layout.QUESTIONS, f"{layout.NODES}/part-*.parquet"]
"""Patterns of the files that are the forest itself."""
OURS = (layout.CARD, layout.MANIFEST, layout.QUESTIONS, f"{layout.NODES}/", f"{layout.EXPORTS}/")
"""What a push may replace or remove in a repo; any other file there is left alone."""

_ATTEMPTS = 5
_ODD = re.compile(r"(^|[/\\])\.\.?([/\\]|$)|[\\\0-\x1f]|//")
"""What a path holds that leads out of its folder, or that a file system may read otherwise."""

Listing = dict[str, str]
"""path → content hash, of the files that are ours."""


def parse_repo(name: str) -> tuple[str, str | None]:
    """Return (user/name, revision or None); raise SpecError for anything else.

    >>> parse_repo("me/trees@v1")
    ('me/trees', 'v1')
    """
    repo, _, revision = name.partition("@")
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise SpecError(f"{name!r} names no dataset: write user/name or user/name@revision.")
    return repo, revision or None


def fetch_forest(name: str) -> Path:
    """Return a folder with the trees of `user/name[@revision]`, from the Hub's cache if there.

    Without a network the newest cached commit serves.
    """
    repo, revision = parse_repo(name)
    with explain_hub_errors(name):
        from huggingface_hub import snapshot_download

        folder = snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns=TREES
        )
    if not (Path(folder) / layout.MANIFEST).exists():
        raise no_forest(name)
    return Path(folder)


def fetch_export(name: str, config: Config) -> tuple[Path, str]:
    """Return (folder of one export of `user/name[@revision]` in the Hub's cache, its commit)."""
    repo, revision = parse_repo(name)
    with explain_hub_errors(name):
        from huggingface_hub import snapshot_download

        commit = head(repo, revision)
        wanted = f"{layout.EXPORTS}/{config.name}/"
        if not any(path.startswith(wanted) for path in listing_of(repo, commit)):
            raise HubError(
                f"{name} on the Hub has no config {config.name}. Export and push it: malt-data "
                f"export --role {config.role} --format {config.format.name} --push {repo}"
            )
        folder = snapshot_download(
            repo, repo_type="dataset", revision=commit, allow_patterns=f"{wanted}*"
        )
    return Path(folder) / wanted, commit


def fetch_file(repo: str, path: str) -> Path:
    """Return a file of a model repo from the Hub's cache; one that is not there as a missing path.

    Raises HubError where the repo cannot be had.
    """
    with explain_hub_errors(repo):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        try:
            return Path(hf_hub_download(repo, path))
        except RemoteEntryNotFoundError:
            return Path(repo) / path


def listing_of(repo: str, commit: str) -> Listing:
    """Return our files in a dataset repo; raise HubError for names that no push of ours makes."""
    from huggingface_hub.hf_api import RepoFile

    listing = {
        item.path: item.lfs.sha256 if item.lfs else item.blob_id
        for item in hub_api().list_repo_tree(
            repo, recursive=True, revision=commit, repo_type="dataset"
        )
        if isinstance(item, RepoFile) and item.path.startswith(OURS)
    }
    if odd := [path for path in listing if _ODD.search(path)]:
        raise HubError(
            f"{repo} on the Hub holds a file of the name {odd[0]!r}, which no push of ours makes. "
            "Nothing of it was fetched: ask its owner to remove the file."
        )
    return listing


def require_forest(listing: Listing, name: str) -> None:
    if layout.MANIFEST not in listing:
        raise no_forest(name)


def no_forest(name: str) -> HubError:
    return HubError(
        f"{name} on the Hub holds no forest (no {layout.MANIFEST}): it was not pushed by us."
    )


def download(repo: str, commit: str, folder: Path) -> None:
    """Bring all that a push sends into `folder`, without the client's own cache."""
    from huggingface_hub import snapshot_download

    snapshot_download(
        repo,
        repo_type="dataset",
        revision=commit,
        local_dir=folder,
        allow_patterns=[*TREES, layout.CARD, f"{layout.EXPORTS}/*"],
    )


def head(repo: str, revision: str | None) -> str:
    """Return the newest commit of a dataset repo's revision."""
    return str(hub_api().dataset_info(repo, revision=revision).sha)


def find_head(repo: str, revision: str) -> str | None:
    """Return what `head` returns; None where there is no such repo or revision."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return head(repo, revision)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None


def ensure_repo(repo: str, revision: str, *, private: bool) -> None:
    """Create the dataset repo, and the branch, where they are missing."""
    api = hub_api()
    api.create_repo(repo, repo_type="dataset", private=private or None, exist_ok=True)
    if revision != "main" and not revision.startswith("refs/"):
        api.create_branch(repo, branch=revision, repo_type="dataset", exist_ok=True)


def commit(
    repo: str,
    files: Mapping[str, Path | bytes],
    removed: Sequence[str] = (),
    *,
    message: str,
    repo_type: Literal["dataset", "model"] = "dataset",
    revision: str | None = None,
    parent: str | None = None,
    pull_request: bool = False,
) -> tuple[str, str | None]:
    """Send files as one commit; return (its hash, the URL of a pull request)."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = [
        CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
        for path, content in files.items()
    ]
    operations += [CommitOperationDelete(path) for path in removed]
    info = hub_api().create_commit(
        repo,
        operations,
        commit_message=message,
        repo_type=repo_type,
        revision=revision,
        parent_commit=parent,
        create_pr=pull_request,
    )
    return str(info.oid), info.pr_url


def create_model_repo(repo: str) -> None:
    """Create a model repo where it is missing."""
    hub_api().create_repo(repo, exist_ok=True)


def tag_commit(repo: str, tag: str, commit: str) -> None:
    """Tag a commit; a tag that is there already and names another one is an error."""
    api = hub_api()
    tags = {
        ref.name: ref.target_commit for ref in api.list_repo_refs(repo, repo_type="dataset").tags
    }
    if tags.get(tag) == commit:
        return
    if tag in tags:
        raise HubError(
            f"{repo} is pushed as {commit[:12]}, but its tag {tag} names {tags[tag][:12]} already. "
            "Choose another one: --tag NAME"
        )
    api.create_tag(repo, tag=tag, revision=commit, repo_type="dataset")


def http_error() -> type[Exception]:
    """Return the base of transport errors; hub 1.x has it from httpx, 2.x from httpx2."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


def hub_api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(library_name="malt-data")


def retrying(attempt: Callable[[], T]) -> T:
    """Run `attempt`, again after what may pass: a busy Hub, a lost connection, a new parent."""
    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass),
        wait=tenacity.wait_exponential_jitter(initial=0.5, max=30),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )
    return retry(attempt)


def _may_pass(error: BaseException) -> bool:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 412, 429) or error.response.status_code >= 500
    return isinstance(error, (http_error(), ConnectionError)) and not isinstance(
        error, OfflineModeIsEnabled
    )


@contextmanager
def explain_hub_errors(name: str) -> Iterator[None]:
    """Turn what `huggingface_hub` raises into one sentence that says what to do."""
    from huggingface_hub import errors
    from huggingface_hub.utils import logging as hub_logging

    logging: Any = hub_logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # what it warns of, the sentences below say
    try:
        yield
    except MaltError:
        raise
    except errors.HFValidationError as error:
        raise SpecError(f"{name!r} names no dataset: {one_line(error)}") from None
    except errors.RevisionNotFoundError:
        raise HubError(
            f"{name} has no such revision on the Hub. Check branch, tag or commit."
        ) from None
    except errors.RepositoryNotFoundError:
        raise HubError(
            f"{name} is not on the Hub, or your login may not see it. Check the name; log in: "
            "hf auth login"
        ) from None
    except errors.HfHubHTTPError as error:
        raise _refused(name, error) from None
    except (errors.LocalTokenNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise HubError(f"{name}: {one_line(error)}") from None
    except (
        http_error(),
        ConnectionError,
        errors.LocalEntryNotFoundError,
        RuntimeError,
    ) as error:
        raise HubError(
            f"{name}: the Hub cannot be reached ({one_line(error)}). Nothing was half done: check "
            "the network and run the same command again."
        ) from None
    except ValueError as error:  # JSON that is none, file names that the client refuses
        raise HubError(
            f"{name}: what the Hub answered cannot be used ({one_line(error)}). Ask the owner of "
            "the repo, or name another."
        ) from None
    except OSError as error:
        raise HubError(
            f"{name}: {error.filename or 'a file'} could not be read or written here: "
            f"{error.strerror or one_line(error)}. Free some space or check the folder, and run "
            "the same command again."
        ) from None
    finally:
        logging.set_verbosity(level)


def _refused(name: str, error: Any) -> HubError:
    status = error.response.status_code
    said = " ".join((error.server_message or one_line(error)).split())
    hint = {
        401: "You are not logged in: hf auth login",
        403: "Your token may not do this: log in with one that may write, hf auth login",
        412: "The repo is changed again and again by others: run the same command once more.",
        429: "Too many requests: run the same command again in a while.",
    }.get(status, "Nothing was half done: run the same command again in a while.")
    return HubError(f"{name}: the Hub refused ({status}: {said}). {hint}")
