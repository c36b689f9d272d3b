"""Folders that a user names for us to write: what is refused before anything is made.

refuse_folder(Path("forest/nodes/part-new.parquet"))    # SpecError: it lies inside a forest
"""

import os
from pathlib import Path

from malt_data.errors import SpecError
from malt_data.schemas.layout import MANIFEST

_LONGEST_NAME = 200
"""Bytes of a folder's name: file systems take 255, and what is half written is called longer."""


def refuse_folder(folder: Path, *, inside: str | None = None) -> None:
    """Raise SpecError where `folder` cannot be written, or lies among the files of a forest.

    inside: the only folder of a forest that it may lie in; None: any but the nodes'.
    """
    hint = "Choose a new folder: --out NAME"
    if "\0" in str(folder):
        raise SpecError(f"{folder} holds a NUL, which no name may. {hint}")
    if len(os.fsencode(folder.name)) > _LONGEST_NAME:
        raise SpecError(f"{folder} has a name of more than {_LONGEST_NAME} bytes. {hint}")
    real = Path(os.path.realpath(folder))
    if real.exists() and not real.is_dir():
        raise SpecError(f"{folder} is not a folder. {hint}")
    for parent in real.parents:
        if not (parent / MANIFEST).exists():
            continue
        first, *below = real.relative_to(parent).parts
        if first == "nodes" or (inside is not None and not (first == inside and below)):
            raise SpecError(f"{folder} lies among the files of the forest {parent}. {hint}")
