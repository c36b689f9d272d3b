"""A forest and its exports from the Hub into a folder of one's own.

pull("me/trees@v1", "trees")
"""

import shutil
from pathlib import Path

from malt_data.errors import HubError
from malt_data.publish.seen import remember
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
    """Fetch `user/name[@revision]`, trees and exports, into `out` (default: ./name).

    An interrupted pull goes on where it was. Raises HubError where `out` is taken.
    """
    repo, revision = parse_repo(name)
    target = Path(out or repo.partition("/")[2])
    refuse_folder(target)
    _refuse_taken(target)
    partial = target.with_name(f".{target.name}.partial")
    with explain_hub_errors(name):
        commit = head(repo, revision)
        listing = listing_of(repo, commit)
        require_forest(listing, name)
        with lock(partial, wait=False) as acquired:
            if not acquired:
                raise HubError(f"{target} is being pulled by another process. Wait for it.")
            _refuse_taken(target)  # by another pull, a moment ago
            _download(repo, commit, listing, partial)
            remember(partial, repo, revision or "main", [{p: [d] for p, d in listing.items()}])
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
    download(repo, commit, folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    for path in folder.rglob("*"):  # of another commit, pulled half
        place = path.relative_to(folder).as_posix()
        if path.is_file() and place not in listing and place != LOCK:
            path.unlink()
