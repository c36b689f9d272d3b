"""The Hub client: repo names, downloads to the cache, commits, and readable errors.

    with explain_hub_errors("me/trees"):
        commit = head("me/trees", "main")

Only this module talks to the Hub and handles its client's exceptions, except for question
datasets, which `questions/hub.py` loads with `datasets`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from malt_data.errors import HubError, MaltError, SpecError, one_line
from malt_data.schemas import layout
from malt_data.schemas.exports import Config

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

HUB = "hf://datasets/"
"""Prefix of a forest's URL on the Hub."""
TREES = [layout.MANIFEST, layout.QUESTIONS, f"{layout.NODES}/part-*.parquet"]
"""Patterns of the files of a forest, without its exports and card."""
OURS = (layout.CARD, layout.MANIFEST, layout.QUESTIONS, f"{layout.NODES}/", f"{layout.EXPORTS}/")
"""Paths that a push may replace or remove; it never touches other files in the repo."""

_ATTEMPTS = 5
_UNSAFE_PATH = re.compile(r"(^|[/\\])\.\.?([/\\]|$)|[\\\0-\x1f]|//")
"""Matches paths that leave their folder or that file systems interpret differently."""

Listing = dict[str, str]
"""path → content hash, for the files in OURS."""


def parse_repo(name: str) -> tuple[str, str | None]:
    """Return (user/name, revision or None); raise SpecError for an invalid name.

    >>> parse_repo("me/trees@v1")
    ('me/trees', 'v1')
    """
    repo, _, revision = name.partition("@")
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise SpecError(f"{name!r} is not the name of a repo: use user/name or user/name@revision.")
    return repo, revision or None


def require_repo(name: str) -> None:
    """Raise SpecError unless this names a repo to push to, which has no @."""
    if parse_repo(name)[1]:
        raise SpecError(f"{name!r}: pass the repo without @; a branch is named with --revision.")


def fetch_forest(name: str) -> Path:
    """Download the trees of `user/name[@revision]` to the Hub's cache; return their folder.

    If the Hub is unreachable, the newest cached commit is used.
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


def fetch_manifest(name: str) -> tuple[Path, str]:
    """Download the manifest of `user/name[@revision]`, if any; return (its folder, commit)."""
    repo, revision = parse_repo(name)
    with explain_hub_errors(name):
        from huggingface_hub import snapshot_download

        commit = head(repo, revision)
        folder = snapshot_download(
            repo, repo_type="dataset", revision=commit, allow_patterns=layout.MANIFEST
        )
    return Path(folder), commit


def fetch_export(name: str, config: Config) -> tuple[Path, str]:
    """Download one export of `user/name[@revision]`; return (its folder in the cache, commit)."""
    repo, revision = parse_repo(name)
    with explain_hub_errors(name):
        from huggingface_hub import snapshot_download

        commit = head(repo, revision)
        subfolder = f"{layout.EXPORTS}/{config.name}/"
        paths = [path.split("/") for path in listing_of(repo, commit)]
        exports = sorted({path[1] for path in paths if path[0] == layout.EXPORTS})
        if config.name not in exports:
            raise HubError(
                f"{name} on the Hub has no config {config.name} (it has "
                f"{', '.join(exports) or 'none'}). Export and push it: malt-data "
                f"export --role {config.role} --format {config.format.name} --push {repo}"
            )
        folder = snapshot_download(
            repo, repo_type="dataset", revision=commit, allow_patterns=f"{subfolder}*"
        )
    return Path(folder) / subfolder, commit


def fetch_file(repo: str, path: str) -> Path:
    """Download a file of a model repo; return its path, which does not exist if the file does not.

    Raises HubError if the repo is not available.
    """
    with explain_hub_errors(repo):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        try:
            return Path(hf_hub_download(repo, path))
        except RemoteEntryNotFoundError:
            return Path(repo) / path


def listing_of(repo: str, commit: str) -> Listing:
    """Return the files in OURS of a dataset repo; raise HubError if any has an unsafe path."""
    from huggingface_hub.hf_api import RepoFile

    listing = {
        item.path: item.lfs.sha256 if item.lfs else item.blob_id
        for item in hub_api().list_repo_tree(
            repo, recursive=True, revision=commit, repo_type="dataset"
        )
        if isinstance(item, RepoFile) and item.path.startswith(OURS)
    }
    if unsafe := [path for path in listing if _UNSAFE_PATH.search(path)]:
        raise HubError(
            f"{repo} on the Hub has a file with an unsafe path, {unsafe[0]!r}. Nothing was "
            "downloaded; ask the owner to remove the file."
        )
    return listing


def require_forest(listing: Listing, name: str) -> None:
    if layout.MANIFEST not in listing:
        raise no_forest(name)


def no_forest(name: str) -> HubError:
    return HubError(
        f"{name} on the Hub is not a forest: it has no {layout.MANIFEST}. Check the name."
    )


def download(repo: str, commit: str, folder: Path) -> None:
    """Download everything that a push sends to `folder`, bypassing the Hub's cache."""
    from huggingface_hub import snapshot_download

    snapshot_download(
        repo,
        repo_type="dataset",
        revision=commit,
        local_dir=folder,
        allow_patterns=[*TREES, layout.CARD, f"{layout.EXPORTS}/*"],
    )


def head(repo: str, revision: str | None) -> str:
    """Return the newest commit of a revision of a dataset repo."""
    return str(hub_api().dataset_info(repo, revision=revision).sha)


def find_head(repo: str, revision: str) -> str | None:
    """Like `head`, but return None if the repo or revision does not exist."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return head(repo, revision)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None


def ensure_repo(repo: str, revision: str, *, private: bool) -> None:
    """Create the dataset repo and the branch if they do not exist."""
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
    repo_type: Literal["dataset", "model", "space"] = "dataset",
    revision: str | None = None,
    parent: str | None = None,
    pull_request: bool = False,
) -> tuple[str, str | None]:
    """Commit files; return (commit hash, URL of the pull request or None)."""
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
    """Create a model repo if it does not exist."""
    hub_api().create_repo(repo, exist_ok=True)


def create_space(repo: str, *, private: bool) -> None:
    """Create a static Space if it does not exist."""
    hub_api().create_repo(
        repo, repo_type="space", space_sdk="static", private=private or None, exist_ok=True
    )


def space_url(repo: str) -> str:
    """Return where people see a Space."""
    return f"{hub_api().endpoint}/spaces/{repo}"


def tag_commit(repo: str, tag: str, commit: str) -> None:
    """Tag a commit; raise HubError if the tag already points to another one."""
    api = hub_api()
    tags = {
        ref.name: ref.target_commit for ref in api.list_repo_refs(repo, repo_type="dataset").tags
    }
    if tags.get(tag) == commit:
        return
    if tag in tags:
        raise HubError(
            f"{repo} was pushed as {commit[:12]}, but tag {tag} already points to "
            f"{tags[tag][:12]}. Choose another tag: --tag NAME"
        )
    api.create_tag(repo, tag=tag, revision=commit, repo_type="dataset")


def http_error() -> type[Exception]:
    """Return the base class of transport errors: from httpx in hub 1.x, from httpx2 in 2.x."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


def hub_api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(library_name="malt-data")


def retrying(attempt: Callable[[], T]) -> T:
    """Run `attempt`; retry after a transient error: a busy Hub, a lost connection, a new parent."""
    import tenacity

    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_transient),
        wait=tenacity.wait_exponential_jitter(initial=0.5, max=30),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )
    return retry(attempt)


def _is_transient(error: BaseException) -> bool:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 412, 429) or error.response.status_code >= 500
    return isinstance(error, (http_error(), ConnectionError)) and not isinstance(
        error, OfflineModeIsEnabled
    )


@contextmanager
def explain_hub_errors(name: str) -> Iterator[None]:
    """Turn exceptions of `huggingface_hub` into errors that say what to do next."""
    from huggingface_hub import errors
    from huggingface_hub.utils import logging as hub_logging

    logging: Any = hub_logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # the errors below replace its warnings
    try:
        yield
    except MaltError:
        raise
    except errors.HFValidationError as error:
        raise SpecError(f"{name!r} is not the name of a repo: {one_line(error)}") from None
    except errors.RevisionNotFoundError:
        raise HubError(
            f"{name} on the Hub has no such revision. Check the branch, tag or commit."
        ) from None
    except errors.RepositoryNotFoundError:
        raise HubError(
            f"{name} is not on the Hub, or you have no access to it. Check the name, or log in: "
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
            f"{name}: the Hub is unreachable ({one_line(error)}). Nothing was partially written; "
            "check the network and run the same command again."
        ) from None
    except ValueError as error:  # invalid JSON, file names that the client refuses
        raise HubError(
            f"{name}: the Hub sent an invalid response ({one_line(error)}). Use another repo, or "
            "ask the owner of this one."
        ) from None
    except OSError as error:
        raise HubError(
            f"{name}: {error.filename or 'a local file'} could not be read or written: "
            f"{error.strerror or one_line(error)}. Check the folder and free disk space, then run "
            "the same command again."
        ) from None
    finally:
        logging.set_verbosity(level)


def _refused(name: str, error: Any) -> HubError:
    status = error.response.status_code
    message = " ".join((error.server_message or one_line(error)).split())
    hint = {
        401: "You are not logged in: hf auth login",
        403: "Your token lacks permission. Log in with one that can write: hf auth login",
        412: "Others keep changing the repo: run the same command again.",
        429: "Too many requests: run the same command again later.",
    }.get(status, "Nothing was partially written; run the same command again later.")
    return HubError(f"{name}: the Hub refused ({status}: {message}). {hint}")
