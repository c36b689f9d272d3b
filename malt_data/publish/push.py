"""Push a forest and its exports to a dataset repo on the Hub, and adapters to model repos.

    pushed = push(open_forest("forest"), "me/trees", tag="v1")
    pushed.commit, pushed.uploaded

A push is one commit, or none if nothing changed. It is refused if someone else changed the forest
in the repo since this copy was last in sync with it; `publish/sync.py` records those states.
Concurrent commits that do not touch the forest's files are fine: the push is retried on top.
"""

import contextlib
import dataclasses
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from malt_data.errors import HubError
from malt_data.exporters.export import export, exports_of
from malt_data.exporters.layouts import TRL
from malt_data.forests.forest import Forest
from malt_data.publish.card import render_card
from malt_data.publish.sync import save_states, synced_states
from malt_data.schemas import layout
from malt_data.schemas.exports import Config, all_configs, config_named, default_configs
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
    require_repo,
    retrying,
    tag_commit,
)


@dataclass(frozen=True)
class Pushed:
    """The result of a push. commit: the repo's newest; uploaded and removed: paths of files."""

    repo: str
    commit: str
    changed: bool
    uploaded: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    pull_request: str | None = None
    tag: str | None = None

    def summary(self, dry_run: bool = False) -> str:
        """Return a one-line summary."""
        if not self.changed:
            return f"{self.repo} is up to date ({self.commit[:12]})."
        files = f"{len(self.uploaded)} files, {len(self.removed)} removed"
        if dry_run:
            return f"{self.repo} would get {files}: {', '.join(self.uploaded[:8])}"
        tag = f", tagged {self.tag}" if self.tag else ""
        target = self.pull_request or f"commit {self.commit[:12]}"
        return f"{self.repo}: {files}, pushed as {target}{tag}."


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
    """Push trees, exports and card of `forest` to `repo` in one commit.

    exports: config names; None means the existing exports, or the default ones if there are none.
    Stale exports are written again with their own settings. replace: overwrite changes made
    elsewhere. Raises HubError if the Hub refuses, is unreachable, or has such changes.
    """
    require_repo(repo)
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
        update = _RepoUpdate(
            forest.folder, repo, revision, files, message, pull_request, replace, dry_run
        )
        pushed = retrying(update.attempt)
        if tag is not None and not dry_run:
            tag_commit(repo, tag, pushed.commit)
            pushed = dataclasses.replace(pushed, tag=tag)
    return pushed


def push_adapter(folder: str | Path, repo: str) -> str:
    """Push an adapter's files to a model repo in one commit; return the commit.

    Pushing an unchanged adapter creates no commit. Raises HubError if the Hub refuses.
    """
    require_repo(repo)
    folder = Path(folder)
    with explain_hub_errors(repo):
        create_model_repo(repo)
        files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
        sha, _ = commit(repo, files, message=f"malt-data: {folder.name}", repo_type="model")
    return sha


def _fresh_exports(forest: Forest, names: Sequence[str] | None) -> list[Config]:
    """Return the configs to push, after exporting the missing and stale ones."""
    existing = {
        name: report
        for name, report in exports_of(forest).items()
        if report.layout == TRL and report.config == name  # others are for use here
    }
    roles = forest.manifest.spec.pipeline.roles
    if names is None:
        names = list(existing) or [config.name for config in default_configs(roles)]
    state = forest.fingerprint()
    for name in names:
        report = existing.get(name)
        if report is None or report.forest != state:
            export(forest, config_named(name), report.selection if report else None)
    return [config for config in all_configs(roles) if config.name in names]


@dataclass(frozen=True)
class _RepoUpdate:
    """Updates a repo to contain exactly these files; retried if someone else commits meanwhile."""

    folder: Path
    repo: str
    revision: str
    files: dict[str, Path | bytes]
    message: str
    pull_request: bool
    replace: bool
    dry_run: bool

    @cached_property
    def local(self) -> dict[str, tuple[str, str]]:
        """path → the hashes that the Hub may list for it."""
        return {path: _hashes(content) for path, content in self.files.items()}

    @cached_property
    def synced(self) -> list[dict[str, list[str]]]:
        """The states that this copy was in sync with before the first attempt."""
        return synced_states(self.folder, self.repo)

    def attempt(self) -> Pushed:
        local, synced = self.local, self.synced
        sha, remote = self._head()
        added = [path for path in local if remote.get(path) not in local[path]]
        removed = [path for path in remote if path not in local]
        if not added and not removed:
            self._save([local])
            return Pushed(self.repo, sha, changed=False)
        if remote and not self.replace and not any(_same(remote, state) for state in synced):
            raise _changed_elsewhere(
                self.repo, self.revision, remote, synced[0] if synced else local
            )
        if self.dry_run:
            return Pushed(self.repo, sha, True, added, removed)
        # Before the commit, in case its response is lost; a pull request may be merged later.
        self._save([*synced, local])
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
            self._save([local])
        return Pushed(self.repo, sha, True, added, removed, url)

    def _head(self) -> tuple[str, Listing]:
        """Return the newest commit and its files; empty for a dry run on a new repo."""
        if self.dry_run and find_head(self.repo, self.revision) is None:
            return "", {}
        sha = head(self.repo, self.revision)
        return sha, listing_of(self.repo, sha)

    def _save(self, states: Sequence[Mapping[str, Sequence[str]]]) -> None:
        save_states(self.folder, self.repo, self.revision, states)


def _local_files(forest: Forest, card: str, configs: list[Config]) -> dict[str, Path | bytes]:
    folder = forest.folder
    files: dict[str, Path | bytes] = {layout.CARD: card.encode("utf-8")}
    parts = [f"{layout.NODES}/{path.name}" for path in forest.parts.paths()]
    for name in [layout.MANIFEST, layout.QUESTIONS, *parts]:
        files[name] = folder / name
    for config in configs:
        subfolder = folder / layout.EXPORTS / config.name
        for path in sorted([*subfolder.glob("*.parquet"), subfolder / layout.EXPORT]):
            files[path.relative_to(folder).as_posix()] = path
    return files


def _hashes(content: Path | bytes) -> tuple[str, str]:
    """Return the hashes that the Hub may list for this content: SHA-256 (LFS) and git's SHA-1."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    digests = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        while block := file.read(2**20):
            for digest in digests:
                digest.update(block)
    return digests[0].hexdigest(), digests[1].hexdigest()


def _same(remote: Mapping[str, str], state: Mapping[str, Sequence[str]]) -> bool:
    return remote.keys() == state.keys() and all(remote[path] in state[path] for path in remote)


def _changed_elsewhere(
    repo: str, revision: str, remote: Mapping[str, str], state: Mapping[str, Sequence[str]]
) -> HubError:
    paths = remote.keys() | state.keys()
    changed = sorted(p for p in paths if p not in remote or remote[p] not in state.get(p, ()))
    return HubError(
        f"{repo} ({revision}) was changed elsewhere: {', '.join(changed[:3])}"
        f"{', …' if len(changed) > 3 else ''}. Inspect the changes (malt-data pull "
        f"{repo}@{revision} --out OTHER), then push to another branch (--revision NAME) or "
        "overwrite them (--replace)."
    )
