"""Docstring examples work, pages name what exists, the version is the same everywhere.

Only lines starting with `>>>` are executed; examples that need a file, an engine or the Hub are
plain indented code.
"""

import ast
import doctest
import pkgutil
import re
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


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
_BLOCKS = re.DOTALL | re.MULTILINE
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", _BLOCKS)
FILE = re.compile(r"(?:[\w.-]+/)*[\w.-]+\.(?:py|sql)|(?:[\w.-]+/)+(?:[\w.-]+\.\w+)?")
MODULE = re.compile(r"\bmalt_data(?:\.\w+)+")


def named(page: Path) -> list[str]:
    """Return the files and folders that a page names in backticks or links to."""
    prose = FENCE.sub("", page.read_text("utf-8"))
    words = [word for quoted in re.findall(r"`([^`\n]+)`", prose) for word in quoted.split()]
    links = re.findall(r"\]\((?!https?:)([^)#]+)", prose)
    return [word for word in words if FILE.fullmatch(word)] + links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    """A path is one in the repository, in malt_data/, in tests/, or beside the page."""
    homes = [ROOT, ROOT / "malt_data", ROOT / "tests", page.parent]
    folders = [ROOT / name for name in ("malt_data", "tests", "benchmarks", "docs")]
    modules = {path.name for folder in folders for path in folder.rglob("*.*")}
    for name in named(page):
        if "/" in name or not name.endswith((".py", ".sql")):
            top = name.split("/")[0]
            known = any((home / top).exists() for home in homes)  # `me/trees` is none of ours
            assert any((home / name).exists() for home in homes) or not known, name
        else:
            assert name in modules, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_that_a_page_names_can_be_imported(page: Path) -> None:
    text = re.sub(r"^```python\n# malt_data/.*?^```$", "", page.read_text("utf-8"), flags=_BLOCKS)
    names = set(MODULE.findall(text))  # but for code that is to be added
    for language, code in FENCE.findall(text):
        for step in ast.walk(ast.parse(code if language == "python" else "")):
            if isinstance(step, ast.ImportFrom) and (step.module or "").startswith("malt_data"):
                names |= {f"{step.module}.{name.name}" for name in step.names}
    for name in names:
        pkgutil.resolve_name(name)


def test_the_version_is_the_same_everywhere() -> None:
    version = malt_data.__version__
    assert metadata.version("malt-data") == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == version
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "## [Unreleased]" in changes
    assert f"## {version}" in changes
