"""Check output folders before work starts.

refuse_folder(Path("forest/nodes/part-new.parquet"))    # SpecError: it lies inside a forest
"""

import os
from pathlib import Path

from malt_data.errors import SpecError
from malt_data.schemas.layout import MANIFEST

_LONGEST_NAME = 200
"""In bytes: file systems allow 255, and temporary names are longer than the final one."""


def refuse_folder(folder: Path, *, inside: str | None = None) -> None:
    """Raise SpecError if `folder` is not a valid output folder or lies among a forest's files.

    inside: the only subfolder of a forest that may contain it; None allows any but `nodes`.
    """
    hint = "Choose a new folder: --out NAME"
    if "\0" in str(folder):
        raise SpecError(f"{folder} contains a NUL byte. {hint}")
    if len(os.fsencode(folder.name)) > _LONGEST_NAME:
        raise SpecError(f"{folder}: the name is longer than {_LONGEST_NAME} bytes. {hint}")
    real = Path(os.path.realpath(folder))
    if real.exists() and not real.is_dir():
        raise SpecError(f"{folder} is not a folder. {hint}")
    for parent in real.parents:
        if not (parent / MANIFEST).exists():
            continue
        first, *below = real.relative_to(parent).parts
        if first == "nodes" or (inside is not None and not (first == inside and below)):
            raise SpecError(f"{folder} lies among the files of the forest {parent}. {hint}")


def cache() -> Path:
    """Return the cache folder: $MALT_CACHE, or malt-data in the user's cache folder."""
    if folder := os.environ.get("MALT_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "malt-data"
