"""The overview of all experiments, and the costs of some, are what their stored data give."""

import json
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "results"


def test_the_overview_is_recomputed_from_the_stored_completions() -> None:
    tables = runpy.run_path(str(FOLDER / "tables.py"))
    _, written, _ = (FOLDER / "README.md").read_text("utf-8").split(tables["MARK"])
    assert written.strip() == tables["overview"]().strip()


@pytest.mark.parametrize("task", ["greater", "divisible"])
def test_the_costs_of_a_team_are_recomputed_from_what_its_stages_took(task: str) -> None:
    natural = FOLDER / "natural"
    script = runpy.run_path(str(natural / "costs.py"))
    team = natural / task / "0"
    took = json.loads((team / "costs.json").read_text("utf-8"))
    rows = script["table"](took, team / "results")
    assert (team / "costs.md").read_text("utf-8") == script["written"](rows)
