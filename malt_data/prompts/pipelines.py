"""Read a pipeline: a shipped one by its name, or a user's own file.

>>> str(find_pipeline("refine"))
'generator 3 → refiner 3'
"""

from pathlib import Path
from typing import Any

from malt_data.errors import SpecError
from malt_data.schemas.pipeline import Pipeline, shipped
from malt_data.storage.documents import read_settings_file


def find_pipeline(name: str | Path) -> Pipeline:
    """Return the shipped pipeline `name`, or the one in the TOML file at that path.

    Raises SpecError if there is no such pipeline or the file is invalid.
    """
    if not str(name).endswith(".toml"):
        return shipped(str(name))
    tables = read_settings_file(name, "pipeline file")
    try:
        return Pipeline(**{"name": Path(name).stem, **tables, "turns": _turns(tables)})
    except SpecError as error:
        raise SpecError(f"{name}: {error}") from None


def _turns(tables: dict[str, Any]) -> Any:
    """Return the turns of a file; a role that judges in the shipped pipeline does so here too."""
    turns = tables.get("turns", ())
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise SpecError("write a [[turns]] table for each turn, with its role.")
    judging = shipped().judges
    return [{"judges": turn.get("role") in judging, **turn} for turn in turns]
