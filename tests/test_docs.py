"""Docstring examples work, and the version is the same everywhere.

Only lines starting with `>>>` are executed; examples that need a file, an engine or the Hub are
plain indented code.
"""

import doctest
from importlib import import_module, metadata
from pathlib import Path

import pytest
import yaml

import malt_data

ROOT = Path(__file__).parents[1]
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.glob("malt_data/**/*.py")
    if ">>> " in path.read_text("utf-8")
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_every_docstring_example_runs(name: str) -> None:
    found = doctest.testmod(import_module(name))
    assert found.attempted
    assert not found.failed, "see the output above"


def test_the_version_is_the_same_everywhere() -> None:
    version = malt_data.__version__
    assert metadata.version("malt-data") == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == version
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "## [Unreleased]" in changes
    assert f"## {version}" in changes
