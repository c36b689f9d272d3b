"""Record which states of a Hub repo a local forest was in sync with: `.hub.json` in its folder.

For each repo and revision the file lists the files (path → content hashes) that were pushed from or
pulled to this folder, so that a push can detect changes made elsewhere.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from malt_data.storage.documents import read_json
from malt_data.storage.files import write_text

_FILE = ".hub.json"
_STATES = TypeAdapter(dict[str, list[dict[str, list[str]]]])


def synced_states(folder: Path, repo: str) -> list[dict[str, list[str]]]:
    """Return the states of the repo, on any branch or tag, that this folder was in sync with."""
    saved = _load(folder)
    return [state for key in saved if key.startswith(f"{repo}@") for state in saved[key]]


def save_states(
    folder: Path, repo: str, revision: str, states: Sequence[Mapping[str, Sequence[str]]]
) -> None:
    """Replace the states of one revision of the repo."""
    write_text(folder / _FILE, json.dumps({**_load(folder), f"{repo}@{revision}": states}))


def _load(folder: Path) -> dict[str, list[dict[str, list[str]]]]:
    """Return the content of `.hub.json`; empty if it is missing or corrupt."""
    try:
        return _STATES.validate_python(read_json(folder / _FILE))
    except (OSError, ValueError):
        return {}
