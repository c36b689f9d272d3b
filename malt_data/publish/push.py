"""A forest and its exports to one dataset repo on the Hub, adapters to model repos.

    pushed = push(open_forest("forest"), "me/trees", tag="v1")
    pushed.commit, pushed.uploaded

A push is one commit, or none where nothing changed. It is refused where the repo's forest was
changed by somebody else since this copy was last in step with it: `.hub.json` keeps, for each
repo, the files (path → content hash) that this copy has pushed or pulled. Another commit in
between that touches none of our files is no hindrance: the push is tried again on top of it.
"""

import contextlib
import dataclasses
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from malt_data.errors import HubError, SpecError
from malt_data.exporters.export import export, exports_of, fingerprint
from malt_data.forests.forest import Forest
from malt_data.publish.card import render_card
from malt_data.publish.seen import remember, seen_states
from malt_data.schemas import layout
from malt_data.schemas.exports import ALL, DEFAULT, Config, config_named
from malt_data.storage.files import lock
from malt_data.storage.hub import (
    Listing,
    commit,
    create_model_repo,
    ensure_repo,
    explain_hub_errors,
    find_head,
    head,
    listing_of,
    parse_repo,
    retrying,
    tag_commit,
)


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
    forest: Forest,
    repo: str,
    *,
    exports: Sequence[str] | None = None,
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
    if parse_repo(repo)[1]:
        raise SpecError(f"{repo!r}: name the branch with --revision, not with @.")
    forest.require_writable()
    with forest.reading(), contextlib.ExitStack() as stack:
        forest.require_labelled()
        configs = _fresh_exports(forest, exports)
        files = _local_files(forest, render_card(forest, repo, configs), configs)
        stack.enter_context(explain_hub_errors(repo))
        stack.enter_context(lock(forest.folder))
        if not dry_run:
            ensure_repo(repo, revision, private=private)
        message = f"malt-data: {len(forest.done)} trees, {len(configs)} exports"
        step = _Step(forest.folder, repo, revision, files, message, pull_request, replace, dry_run)
        pushed = retrying(step.attempt)
        if tag is not None and not dry_run:
            tag_commit(repo, tag, pushed.commit)
            pushed = dataclasses.replace(pushed, tag=tag)
    return pushed


def push_adapter(folder: str | Path, repo: str) -> str:
    """Send an adapter's files to a model repo as one commit; return the commit.

    An unchanged adapter makes no commit. Raises HubError where the Hub refuses.
    """
    if parse_repo(repo)[1]:
        raise SpecError(f"{repo!r}: name a repo without @.")
    folder = Path(folder)
    with explain_hub_errors(repo):
        create_model_repo(repo)
        files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
        sha, _ = commit(repo, files, message=f"malt-data: {folder.name}", repo_type="model")
    return sha


def _fresh_exports(forest: Forest, names: Sequence[str] | None) -> list[Config]:
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


@dataclass(frozen=True)
class _Step:
    """Bringing one repo to the state of some files; tried again where somebody else commits."""

    folder: Path
    repo: str
    revision: str
    files: dict[str, Path | bytes]
    message: str
    pull_request: bool
    replace: bool
    dry_run: bool

    def attempt(self) -> Pushed:
        here = {path: _hashes(content) for path, content in self.files.items()}
        seen = seen_states(self.folder, self.repo)
        sha, there = self._head()
        added = [path for path in here if there.get(path) not in here[path]]
        removed = [path for path in there if path not in here]
        if not added and not removed:
            self._remember([here])
            return Pushed(self.repo, sha, changed=False)
        if there and not self.replace and not any(_same(there, known) for known in seen):
            raise _changed_elsewhere(self.repo, self.revision, there, seen[0] if seen else here)
        if self.dry_run:
            return Pushed(self.repo, sha, True, added, removed)
        if not self.pull_request:  # known as ours even if the answer to the commit is lost
            self._remember([*seen, here])
        sha, url = commit(
            self.repo,
            {path: self.files[path] for path in added},
            removed,
            message=self.message,
            revision=self.revision,
            parent=sha,
            pull_request=self.pull_request,
        )
        if not self.pull_request:
            self._remember([here])
        return Pushed(self.repo, sha, True, added, removed, url)

    def _head(self) -> tuple[str, Listing]:
        """Return the newest commit and our files there; nothing for a dry run on a new repo."""
        if self.dry_run and find_head(self.repo, self.revision) is None:
            return "", {}
        sha = head(self.repo, self.revision)
        return sha, listing_of(self.repo, sha)

    def _remember(self, states: Sequence[Mapping[str, Sequence[str]]]) -> None:
        remember(self.folder, self.repo, self.revision, states)


def _local_files(forest: Forest, card: str, configs: list[Config]) -> dict[str, Path | bytes]:
    folder = forest.folder
    files: dict[str, Path | bytes] = {layout.CARD: card.encode("utf-8")}
    parts = [f"{layout.NODES}/{path.name}" for path in forest.parts.paths()]
    for name in [layout.MANIFEST, layout.QUESTIONS, *parts]:
        files[name] = folder / name
    for config in configs:
        place = folder / layout.EXPORTS / config.name
        for path in sorted([*place.glob("*.parquet"), place / layout.EXPORT]):
            files[path.relative_to(folder).as_posix()] = path
    return files


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
