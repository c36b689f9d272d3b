"""The overview of all experiments is what their stored completions give."""

import runpy
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "results"


def test_the_overview_is_recomputed_from_the_stored_completions() -> None:
    tables = runpy.run_path(str(FOLDER / "tables.py"))
    _, written, _ = (FOLDER / "README.md").read_text("utf-8").split(tables["MARK"])
    assert written.strip() == tables["overview"]().strip()
