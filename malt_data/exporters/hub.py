"""A forest and its exports as one dataset repo on the Hub: push, pull, open.

    pushed = push(open_forest("forest"), "me/trees", tag="v1")
    pushed.commit, pushed.uploaded
    pull("me/trees@v1", Path("trees"))

A push is one commit, or none where nothing changed. It is refused where the repo's forest was
changed by somebody else since this copy was last in step with it: `.hub.json` keeps, for each
repo, the files (path → content hash) that this copy has pushed or pulled. Another commit in
between that touches none of our files is no hindrance: the push is tried again on top of it.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tenacity

from malt_data.errors import ForestError, HubError, MaltError, SpecError
from malt_data.exporters.card import CARD, render_card
from malt_data.exporters.export import EXPORT, FOLDER, export, exports_of, fingerprint
from malt_data.forests.parts import lock, write_text
from malt_data.schemas.exports import ALL, RECIPE, Config, config_named
from malt_data.schemas.manifest import MANIFEST

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from malt_data.forests.forest import Forest

_TREES = [MANIFEST, "questions.parquet", "nodes/part-*.parquet"]
_OURS = (CARD, MANIFEST, "questions.parquet", "nodes/", f"{FOLDER}/")
"""What a push may replace or remove in a repo; any other file there is left alone."""
_SEEN = ".hub.json"
_ATTEMPTS = 5

Listing = dict[str, str]
"""path → content hash, of the files that are ours."""


@dataclass(frozen=True)
class Pushed:
    """What a push did. commit: the repo's newest one; uploaded: files sent, removed: deleted."""

    repo: str
    commit: str
    changed: bool
    uploaded: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    pull_request: str | None = None
    tag: str | None = None

    def summary(self, dry_run: bool = False) -> str:
        """Return what was done in one line."""
        if not self.changed:
            return f"{self.repo} is up to date ({self.commit[:12]}): nothing to send."
        files = f"{len(self.uploaded)} files, {len(self.removed)} removed"
        if dry_run:
            return f"{self.repo} would get {files}: {', '.join(self.uploaded[:8])}"
        tag = f", tagged {self.tag}" if self.tag else ""
        where = self.pull_request or f"commit {self.commit[:12]}"
        return f"{self.repo}: {files} sent as {where}{tag}."


def push(
    forest: "Forest",
    repo: str,
    *,
    exports: list[str] | None = None,
    revision: str = "main",
    private: bool = False,
    tag: str | None = None,
    pull_request: bool = False,
    replace: bool = False,
    dry_run: bool = False,
) -> Pushed:
    """Bring `repo` to the state of `forest`: trees, exports, card, in one commit.

    exports: config names; None: those that stand in the forest, or MALT's own where there are
    none. Stale ones are made anew, with their own settings. replace: overwrite another forest.
    Raises HubError where the Hub refuses, is out of reach, or holds changes made elsewhere.
    """
    if parse(repo)[1]:
        raise SpecError(f"{repo!r}: name the branch with --revision, not with @.")
    forest.refuse_writing()
    if left := forest.unlabelled():
        raise ForestError(
            f"{forest.folder} is in the middle of a relabel ({len(left)} parts left). Finish it "
            f"first: malt-data relabel {forest.folder}"
        )
    configs = _fresh_exports(forest, exports)
    card = render_card(forest, repo, configs)
    with _explained(repo), lock(forest.folder):
        api = _api()
        if not dry_run:
            api.create_repo(repo, repo_type="dataset", private=private or None, exist_ok=True)
            if revision != "main" and not revision.startswith("refs/"):
                api.create_branch(repo, branch=revision, repo_type="dataset", exist_ok=True)
        done = _commit(api, forest, repo, card, configs, revision, pull_request, replace, dry_run)
        if tag is not None and not dry_run:
            _tag(api, repo, tag, done.commit)
            done = Pushed(**{**done.__dict__, "tag": tag})
    return done


def pull(name: str, out: Path | None = None) -> Path:
    """Fetch `user/name[@revision]`, trees and exports, into `out` (default: ./name).

    An interrupted pull goes on where it was. Raises HubError where `out` is taken.
    """
    repo, revision = parse(name)
    target = out or Path(repo.partition("/")[2])
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise HubError(f"{target} exists already. Choose a new folder: --out NAME")
    partial = target.with_name(f".{target.name}.partial")
    with _explained(name):
        from huggingface_hub import snapshot_download

        api = _api()
        commit = str(api.dataset_info(repo, revision=revision).sha)
        listing = _listing(api, repo, commit)
        _require_forest(listing, name)
        snapshot_download(
            repo,
            repo_type="dataset",
            revision=commit,
            local_dir=partial,
            allow_patterns=[*_TREES, CARD, f"{FOLDER}/*"],
        )
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        for path in partial.rglob("*"):  # of another commit, pulled half
            if path.is_file() and path.relative_to(partial).as_posix() not in listing:
                path.unlink()
        state = {path: [digest] for path, digest in listing.items()}
        _remember(partial, repo, revision or "main", [state])
        if target.exists():
            target.rmdir()
        partial.rename(target)
    return target


def fetch(name: str) -> Path:
    """Return a folder with the trees of `user/name[@revision]`, from the Hub's cache if there.

    Without a network the newest cached commit serves.
    """
    repo, revision = parse(name)
    with _explained(name):
        from huggingface_hub import snapshot_download

        folder = snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns=_TREES
        )
    if not (Path(folder) / MANIFEST).exists():
        raise _no_forest(name)
    return Path(folder)


def fetch_export(name: str, config: Config) -> tuple[Path, str]:
    """Return (folder of one export of `user/name[@revision]` in the Hub's cache, its commit)."""
    repo, revision = parse(name)
    with _explained(name):
        from huggingface_hub import snapshot_download

        commit = str(_api().dataset_info(repo, revision=revision).sha)
        wanted = f"{FOLDER}/{config.name}/"
        if not any(path.startswith(wanted) for path in _listing(_api(), repo, commit)):
            raise HubError(
                f"{name} on the Hub has no config {config.name}. Export and push it: malt-data "
                f"export --role {config.role} --format {config.format} --push {repo}"
            )
        folder = snapshot_download(
            repo, repo_type="dataset", revision=commit, allow_patterns=f"{wanted}*"
        )
    return Path(folder) / wanted, commit


def fetch_file(repo: str, path: str) -> Path:
    """Return a file of a model repo from the Hub's cache; one that is not there as a missing path.

    Raises HubError where the repo cannot be had.
    """
    with _explained(repo):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        try:
            return Path(hf_hub_download(repo, path))
        except RemoteEntryNotFoundError:
            return Path(repo) / path


def push_adapter(folder: Path, repo: str) -> str:
    """Send an adapter's files to a model repo as one commit; return the commit.

    An unchanged adapter makes no commit. Raises HubError where the Hub refuses.
    """
    if parse(repo)[1]:
        raise SpecError(f"{repo!r}: name a repo without @.")
    with _explained(repo):
        from huggingface_hub import CommitOperationAdd

        api = _api()
        api.create_repo(repo, exist_ok=True)
        files = sorted(path for path in folder.iterdir() if path.is_file())
        operations = [CommitOperationAdd(path.name, str(path)) for path in files]
        info = api.create_commit(repo, operations, commit_message=f"malt-data: {folder.name}")
    return str(info.oid)


def parse(name: str) -> tuple[str, str | None]:
    """Return (user/name, revision or None); raise SpecError for anything else.

    >>> parse("me/trees@v1")
    ('me/trees', 'v1')
    """
    repo, _, revision = name.partition("@")
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise SpecError(f"{name!r} names no dataset: write user/name or user/name@revision.")
    return repo, revision or None


def _fresh_exports(forest: "Forest", names: list[str] | None) -> list[Config]:
    """Return the configs to push, each exported from the forest as it is now."""
    there = exports_of(forest)
    if names is None:
        names = list(there) or [config.name for config in RECIPE]
    state = fingerprint(forest)
    for name in names:
        before = there.get(name)
        if before is None or before.forest != state:
            export(forest, config_named(name), before.selection if before else None)
    return [config for config in ALL if config.name in names]


def _commit(
    api: "HfApi",
    forest: "Forest",
    repo: str,
    card: str,
    configs: list[Config],
    revision: str,
    pull_request: bool,
    replace: bool,
    dry_run: bool,
) -> Pushed:
    files = _local_files(forest, card, configs)
    here = {path: _hashes(content) for path, content in files.items()}
    seen = _seen(forest.folder, repo, revision)

    def attempt() -> Pushed:
        head, there = _head(api, repo, revision, dry_run)
        added = [path for path in here if there.get(path) not in here[path]]
        removed = [path for path in there if path not in here]
        if not added and not removed:
            _remember(forest.folder, repo, revision, [here])
            return Pushed(repo, head, changed=False)
        if there and not replace and not any(_same(there, known) for known in seen):
            raise _changed_elsewhere(repo, revision, there, seen[0] if seen else here)
        if dry_run:
            return Pushed(repo, head, True, added, removed)
        if not pull_request:  # known as ours even if the answer to the commit is lost
            _remember(forest.folder, repo, revision, [*seen, here])
        info = api.create_commit(
            repo,
            [*_operations(files, added, removed)],
            commit_message=f"malt-data: {len(forest.done)} trees, {len(configs)} exports",
            repo_type="dataset",
            revision=revision,
            parent_commit=head,
            create_pr=pull_request,
        )
        if not pull_request:
            _remember(forest.folder, repo, revision, [here])
        return Pushed(repo, info.oid, True, added, removed, info.pr_url)

    return _persistent(attempt)


def _persistent(attempt: Any) -> Pushed:
    """Run `attempt`, again after what may pass: a busy Hub, a lost connection, a new parent."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass),
        wait=tenacity.wait_exponential_jitter(initial=0.5, max=30),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )
    found: Pushed = retrying(attempt)
    return found


def _may_pass(error: BaseException) -> bool:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 412, 429) or error.response.status_code >= 500
    return isinstance(error, (_transport_error(), ConnectionError)) and not isinstance(
        error, OfflineModeIsEnabled
    )


def _local_files(forest: "Forest", card: str, configs: list[Config]) -> dict[str, Path | bytes]:
    folder = forest.folder
    files: dict[str, Path | bytes] = {CARD: card.encode("utf-8")}
    parts = [f"nodes/{path.name}" for path in forest.parts.paths()]
    for name in [MANIFEST, "questions.parquet", *parts]:
        files[name] = folder / name
    for config in configs:
        place = folder / FOLDER / config.name
        for path in sorted([*place.glob("*.parquet"), place / EXPORT]):
            files[path.relative_to(folder).as_posix()] = path
    return files


def _operations(
    files: dict[str, Path | bytes], added: list[str], removed: list[str]
) -> Iterator[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    for path in added:
        content = files[path]
        yield CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
    for path in removed:
        yield CommitOperationDelete(path)


def _head(api: "HfApi", repo: str, revision: str, dry_run: bool) -> tuple[str, Listing]:
    """Return the newest commit and our files there; nothing for a dry run on a repo to be made."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        commit = str(api.dataset_info(repo, revision=revision).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        if dry_run:
            return "", {}
        raise
    return commit, _listing(api, repo, commit)


def _listing(api: "HfApi", repo: str, commit: str) -> Listing:
    from huggingface_hub.hf_api import RepoFile

    return {
        item.path: item.lfs.sha256 if item.lfs else item.blob_id
        for item in api.list_repo_tree(repo, recursive=True, revision=commit, repo_type="dataset")
        if isinstance(item, RepoFile) and item.path.startswith(_OURS)
    }


def _hashes(content: Path | bytes) -> tuple[str, str]:
    """Return the two hashes by which the Hub may know such content: SHA-256 (LFS), git's SHA-1."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    digests = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        while block := file.read(2**20):
            for digest in digests:
                digest.update(block)
    return digests[0].hexdigest(), digests[1].hexdigest()


def _same(there: Mapping[str, str], known: Mapping[str, Sequence[str]]) -> bool:
    return there.keys() == known.keys() and all(there[path] in known[path] for path in there)


def _seen(folder: Path, repo: str, revision: str) -> list[dict[str, list[str]]]:
    """Return the states of the repo that this copy was in step with: path → hashes."""
    try:
        found: dict[str, list[dict[str, list[str]]]] = json.loads((folder / _SEEN).read_bytes())
    except (OSError, ValueError):
        return []
    return found.get(f"{repo}@{revision}", [])


def _remember(
    folder: Path, repo: str, revision: str, states: Sequence[Mapping[str, Sequence[str]]]
) -> None:
    try:
        found = json.loads((folder / _SEEN).read_bytes())
    except (OSError, ValueError):
        found = {}
    write_text(folder / _SEEN, json.dumps({**found, f"{repo}@{revision}": states}))


def _tag(api: "HfApi", repo: str, tag: str, commit: str) -> None:
    """Tag a commit; a tag that is there already and names another one is an error."""
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


def _changed_elsewhere(
    repo: str, revision: str, there: Mapping[str, str], known: Mapping[str, Sequence[str]]
) -> HubError:
    paths = there.keys() | known.keys()
    changed = sorted(p for p in paths if p not in there or there[p] not in known.get(p, ()))
    return HubError(
        f"{repo} ({revision}) holds files that this forest has not seen: {', '.join(changed[:3])}"
        f"{', …' if len(changed) > 3 else ''}. Look at them (malt-data pull {repo}@{revision} "
        "--out OTHER), then push elsewhere (--revision NAME) or overwrite them (--replace)."
    )


def _require_forest(listing: Listing, name: str) -> None:
    if MANIFEST not in listing:
        raise _no_forest(name)


def _no_forest(name: str) -> HubError:
    return HubError(f"{name} on the Hub holds no forest (no {MANIFEST}): it was not pushed by us.")


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(library_name="malt-data")


def _transport_error() -> type[Exception]:
    """Return the base of transport errors; hub 1.x has it from httpx, 2.x from httpx2."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what `huggingface_hub` raises into one sentence that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except MaltError:
        raise
    except errors.HFValidationError as error:
        raise SpecError(f"{name!r} names no dataset: {_line(error)}") from None
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
        raise HubError(f"{name}: {_line(error)}") from None
    except (
        _transport_error(),
        ConnectionError,
        errors.LocalEntryNotFoundError,
        RuntimeError,
    ) as error:
        raise HubError(
            f"{name}: the Hub cannot be reached ({_line(error)}). Nothing was half done: check the "
            "network and run the same command again."
        ) from None
    except OSError as error:
        raise HubError(
            f"{name}: {error.filename or 'a file'} could not be read or written here: "
            f"{error.strerror or _line(error)}. Free some space or check the folder, and run the "
            "same command again."
        ) from None


def _refused(name: str, error: Any) -> HubError:
    status = error.response.status_code
    said = " ".join((error.server_message or _line(error)).split())
    hint = {
        401: "You are not logged in: hf auth login",
        403: "Your token may not do this: log in with one that may write, hf auth login",
        412: "The repo is changed again and again by others: run the same command once more.",
        429: "Too many requests: run the same command again in a while.",
    }.get(status, "Nothing was half done: run the same command again in a while.")
    return HubError(f"{name}: the Hub refused ({status}: {said}). {hint}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
