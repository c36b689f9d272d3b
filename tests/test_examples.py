"""The notebooks in examples/ run in a real kernel, and what they show came from such a run.

PYTHONPATH=. python tests/test_examples.py    # runs them and stores what came out
"""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import malt_data

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))


def read(path: Path) -> Any:
    return nbformat.read(path, 4)  # type: ignore[no-untyped-call]


def execute(path: Path, folder: Path) -> Any:
    """Run every cell in a kernel of its own that starts in `folder`; raise where one fails."""
    notebook = read(path)
    client = NotebookClient(
        notebook, timeout=1800, record_timing=False, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=os.environ | {"PYTHONWARNINGS": "ignore"})  # of libraries, about widgets
    return notebook


@pytest.mark.model
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    made, stored = execute(path, tmp_path), read(path)
    for cell, before in zip(made.cells, stored.cells, strict=True):
        kinds = [[one.output_type for one in each.get("outputs", ())] for each in (cell, before)]
        assert kinds[0] == kinds[1], cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_results_and_nothing_of_the_machine(path: Path) -> None:
    text = path.read_text("utf-8")
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert all(cell.outputs for cell in cells)
    assert {one.output_type for cell in cells for one in cell.outputs} == {"execute_result"}
    assert not re.search(r"site-packages|/(?:home|root|usr|tmp|Users|opt|work)/", text)
    assert set(re.findall(r"malt_data\.(\w+)", text)) <= set(dir(malt_data))
    assert not re.search(r"(?:from|import) malt_data\.", text), "the public API only"


if __name__ == "__main__":
    for each in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as home:
            ran = execute(each, Path(home))
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        ran.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
        nbformat.write(ran, each)  # type: ignore[no-untyped-call]
