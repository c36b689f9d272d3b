"""Read and write `forest.json`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from malt_data.errors import ForestError, SpecError
from malt_data.graders import require_grader
from malt_data.schemas import layout
from malt_data.schemas.manifest import CURRENT, Manifest
from malt_data.schemas.versions import check
from malt_data.storage.documents import read_json
from malt_data.storage.files import lock, write_text


def read_manifest(folder: Path) -> Manifest:
    """Read `folder`/forest.json; raise ForestError if it is missing, corrupt or too new."""
    path = folder / layout.MANIFEST
    try:
        data = read_json(path)
    except FileNotFoundError:
        raise ForestError(
            f"{folder} is not a forest (no {path.name}). Grow one: malt-data build --out {folder}"
        ) from None
    except (OSError, ValueError) as error:
        raise ForestError(
            f"{path} cannot be read ({error}). Restore it, or build into a new folder; "
            f"the trees in {folder / layout.NODES} are untouched."
        ) from None
    check(data.get("schema"), str(path))
    try:
        manifest = Manifest.model_validate(data)
        require_grader(manifest.labels.grader)
        return manifest
    except SpecError as error:
        raise ForestError(f"{path} is not a valid manifest: {error}") from None


def update_manifest(folder: Path, change: Callable[[Manifest], dict[str, Any]]) -> None:
    """Update forest.json with the fields returned by `change`, under a lock."""
    with lock(folder):
        manifest = read_manifest(folder)
        manifest = manifest.model_copy(update={"format": CURRENT, **change(manifest)})
        write_text(folder / layout.MANIFEST, manifest.to_json())
