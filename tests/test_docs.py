"""The examples in docstrings do what they say, and all that names the version names one.

Only what begins with `>>>` is executed; an example that needs a file, an engine or the Hub stands
there as plain indented code.
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
def test_every_example_gives_what_it_shows(name: str) -> None:
    found = doctest.testmod(import_module(name))
    assert found.attempted
    assert not found.failed, "see the output above"


def test_the_version_is_the_same_wherever_it_is_named() -> None:
    version = malt_data.__version__
    assert metadata.version("malt-data") == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == version
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "## [Unreleased]" in changes
    assert f"## {version}" in changes
