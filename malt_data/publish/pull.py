"""Download a forest and its exports from the Hub to a new folder.

pull("me/trees@v1", "trees")
"""

import shutil
from pathlib import Path

from malt_data.errors import HubError, SpecError
from malt_data.publish.sync import save_states
from malt_data.storage.files import LOCK, lock
from malt_data.storage.folders import refuse_folder
from malt_data.storage.hub import (
    Listing,
    download,
    explain_hub_errors,
    head,
    listing_of,
    parse_repo,
    require_forest,
)


def pull(name: str, out: str | Path | None = None) -> Path:
    """Download `user/name[@revision]`, trees and exports, to `out` (default: ./name).

    An interrupted pull can be resumed. Raises HubError if `out` exists and is not an empty folder.
    """
    repo, revision = parse_repo(name)
    target = Path(out or repo.partition("/")[2])
    if target.name in ("", ".."):
        raise SpecError(f"{target} cannot be made anew. Choose a new folder: --out NAME")
    refuse_folder(target)
    _refuse_existing(target)
    partial = target.with_name(f".{target.name}.partial")
    with explain_hub_errors(name):
        commit = head(repo, revision)
        listing = listing_of(repo, commit)
        require_forest(listing, name)
        with lock(partial, wait=False) as acquired:
            if not acquired:
                raise HubError(f"{target} is being pulled by another process. Wait until it ends.")
            _refuse_existing(target)  # another pull may just have finished
            _download(repo, commit, listing, partial)
            state = {path: [digest] for path, digest in listing.items()}
            save_states(partial, repo, revision or "main", [state])
            if target.exists():
                target.rmdir()
            partial.rename(target)
            (target / LOCK).unlink()
    return target


def _refuse_existing(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise HubError(f"{target} already exists. Choose a new folder: --out NAME")


def _download(repo: str, commit: str, listing: Listing, folder: Path) -> None:
    """Bring `folder` to the state of `commit`, whatever an interrupted pull left there."""
    download(repo, commit, folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    for path in folder.rglob("*"):  # files of another commit
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in listing and name != LOCK:
            path.unlink()
