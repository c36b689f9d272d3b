"""What this copy of a forest knows of repos on the Hub: `.hub.json` in its folder.

It keeps, for each repo and revision, the files (path → content hashes) that this copy has pushed or
pulled, so that a push can tell what somebody else changed since.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from malt_data.storage.documents import read_json
from malt_data.storage.files import write_text

_SEEN = ".hub.json"
_STATES = TypeAdapter(dict[str, list[dict[str, list[str]]]])


def seen_states(folder: Path, repo: str) -> list[dict[str, list[str]]]:
    """Return the states of the repo, under any branch or tag, that this copy was in step with."""
    kept = _kept(folder)
    return [state for key in kept if key.startswith(f"{repo}@") for state in kept[key]]


def remember(
    folder: Path, repo: str, revision: str, states: Sequence[Mapping[str, Sequence[str]]]
) -> None:
    write_text(folder / _SEEN, json.dumps({**_kept(folder), f"{repo}@{revision}": states}))


def _kept(folder: Path) -> dict[str, list[dict[str, list[str]]]]:
    """Return what `.hub.json` keeps; nothing where it is missing or corrupt."""
    try:
        return _STATES.validate_python(read_json(folder / _SEEN))
    except (OSError, ValueError):
        return {}
