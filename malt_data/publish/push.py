"""A forest and its exports as one dataset repo on the Hub: push, pull, open.

    pushed = push(open_forest("forest"), "me/trees", tag="v1")
    pushed.commit, pushed.uploaded
    pull("me/trees@v1", Path("trees"))

A push is one commit, or none where nothing changed. It is refused where the repo's forest was
changed by somebody else since this copy was last in step with it: `.hub.json` keeps, for each
repo, the files (path → content hash) that this copy has pushed or pulled. Another commit in
between that touches none of our files is no hindrance: the push is tried again on top of it.
"""

import contextlib
import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from malt_data.errors import HubError, SpecError
from malt_data.exporters.export import EXPORT, FOLDER, export, exports_of, fingerprint
from malt_data.forests.parts import lock, write_text
from malt_data.publish.card import render_card
from malt_data.schemas.exports import ALL, DEFAULT, Config, config_named
from malt_data.schemas.manifest import MANIFEST
from malt_data.storage.documents import read_json
from malt_data.storage.files import LOCK
from malt_data.storage.folders import refuse_folder
from malt_data.storage.hub import (
    CARD,
    TREES,
    Listing,
    explained,
    hub_api,
    listing_of,
    parse,
    persistent,
    require_forest,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from malt_data.forests.forest import Forest

_SEEN = ".hub.json"
_STATES = TypeAdapter(dict[str, list[dict[str, list[str]]]])


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
    with forest.reading(), contextlib.ExitStack() as stack:
        forest.require_labelled()
        configs = _fresh_exports(forest, exports)
        card = render_card(forest, repo, configs)
        stack.enter_context(explained(repo))
        stack.enter_context(lock(forest.folder))
        api = hub_api()
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
    refuse_folder(target)
    _refuse_taken(target)
    partial = target.with_name(f".{target.name}.partial")
    with explained(name):
        api = hub_api()
        commit = str(api.dataset_info(repo, revision=revision).sha)
        listing = listing_of(api, repo, commit)
        require_forest(listing, name)
        with lock(partial, wait=False) as mine:
            if not mine:
                raise HubError(f"{target} is being pulled by another process. Wait for it.")
            _refuse_taken(target)  # by another pull, a moment ago
            _download(repo, commit, listing, partial)
            _remember(partial, repo, revision or "main", [{p: [d] for p, d in listing.items()}])
            if target.exists():
                target.rmdir()
            partial.rename(target)
            (target / LOCK).unlink()
    return target


def _refuse_taken(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise HubError(f"{target} exists already. Choose a new folder: --out NAME")


def _download(repo: str, commit: str, listing: Listing, folder: Path) -> None:
    """Bring `folder` to the state of `commit`, from whatever another pull has left there."""
    from huggingface_hub import snapshot_download

    snapshot_download(
        repo,
        repo_type="dataset",
        revision=commit,
        local_dir=folder,
        allow_patterns=[*TREES, CARD, f"{FOLDER}/*"],
    )
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    for path in folder.rglob("*"):  # of another commit, pulled half
        place = path.relative_to(folder).as_posix()
        if path.is_file() and place not in listing and place != LOCK:
            path.unlink()


def push_adapter(folder: Path, repo: str) -> str:
    """Send an adapter's files to a model repo as one commit; return the commit.

    An unchanged adapter makes no commit. Raises HubError where the Hub refuses.
    """
    if parse(repo)[1]:
        raise SpecError(f"{repo!r}: name a repo without @.")
    with explained(repo):
        from huggingface_hub import CommitOperationAdd

        api = hub_api()
        api.create_repo(repo, exist_ok=True)
        files = sorted(path for path in folder.iterdir() if path.is_file())
        operations = [CommitOperationAdd(path.name, str(path)) for path in files]
        info = api.create_commit(repo, operations, commit_message=f"malt-data: {folder.name}")
    return str(info.oid)


def _fresh_exports(forest: "Forest", names: list[str] | None) -> list[Config]:
    """Return the configs to push, each exported from the forest as it is now."""
    there = exports_of(forest)
    if names is None:
        names = list(there) or [config.name for config in DEFAULT]
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
    seen = _seen(forest.folder, repo)

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

    return persistent(attempt)


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
    return commit, listing_of(api, repo, commit)


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


def _seen(folder: Path, repo: str) -> list[dict[str, list[str]]]:
    """Return the states of the repo, under any branch or tag, that this copy was in step with."""
    kept = _kept(folder)
    return [state for key in kept if key.startswith(f"{repo}@") for state in kept[key]]


def _remember(
    folder: Path, repo: str, revision: str, states: Sequence[Mapping[str, Sequence[str]]]
) -> None:
    write_text(folder / _SEEN, json.dumps({**_kept(folder), f"{repo}@{revision}": states}))


def _kept(folder: Path) -> dict[str, list[dict[str, list[str]]]]:
    """Return what `.hub.json` keeps; nothing where it is missing or corrupt."""
    try:
        return _STATES.validate_python(read_json(folder / _SEEN))
    except (OSError, ValueError):
        return {}


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
