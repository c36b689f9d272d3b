"""Commands that look something up import no more than they need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import make_forest

_RUN = """
import sys
from malt_data.cli import main
try:
    main({words!r})
except SystemExit as done:
    assert not done.code, done.code
print([name for name in ("pandas", "scipy", "tenacity", "asyncio") if name in sys.modules])
"""


def imported(words: list[str], folder: Path) -> str:
    environment = {**os.environ, "MALT_CACHE": str(folder / "cache")}
    command = [sys.executable, "-c", _RUN.format(words=words)]
    for _ in range(2):  # the first fits the model of confidence, which takes scipy
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()[-1]


@pytest.mark.parametrize("words", [["show", "{id}"], ["explain", "{id}/g0"], ["stats"]])
def test_a_command_that_only_looks_imports_little(words: list[str], tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f")
    tree = min(forest.done)
    name, *ids = (word.format(id=tree) for word in words)
    assert imported([name, str(forest.folder), *ids], tmp_path) == "[]"


def test_pyarrow_still_converts_to_pandas_afterwards() -> None:
    code = (
        "from malt_data.commands.startup import start_quickly\n"
        "start_quickly()\n"
        "import pyarrow as pa\n"
        "print(pa.table({'a': [1, 2]}).to_pandas()['a'].sum())\n"
        "import pandas as pd\n"
        "print(pa.array(pd.Series([1.0, None])).null_count)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["3", "1"]
