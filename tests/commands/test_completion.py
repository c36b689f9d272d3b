"""Completion with TAB, in real shells."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from synthetic import make_forest

from malt_data.cli import main
from malt_data.schemas.pipeline import shipped

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two forests, and `malt-data` in bin/."""
    folder = tmp_path_factory.mktemp("completion")
    make_forest(folder / "forest", trees=1, n=(1, 1, 1))
    make_forest(folder / "data" / "own", trees=1, n=(1, 1), pipeline=shipped("refine"))
    (folder / "data" / "none").mkdir()
    program = folder / "bin" / "malt-data"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m malt_data "$@"\n')
    program.chmod(0o755)
    return folder


CASES = [
    ("malt-data export --role ", {"generator", "verifier", "refiner", "all"}),
    ("malt-data export --role ver", {"verifier"}),
    ("malt-data export data/own --role ", {"generator", "refiner", "all"}),
    ("malt-data stats ", {"forest"}),
    ("malt-data show data/", {"data/own"}),
    ("malt-data push forest ", set()),
    ("malt-data build --questions gsm-", {"gsm-symbolic", "gsm-symbolic-p1", "gsm-symbolic-p2"}),
    ("malt-data build --pipeline ma", {"malt", "malt2"}),
    ("malt-data build --engine ", {"transformers", "vllm", "openai"}),
    ("malt-data build --grader a", {"auto"}),
    ("malt-data build --n-verifier ", set()),
    ("malt-data build --n-verifier 2 --pipeline r", {"refine"}),
    ("malt-data train --recipe dpo-n", {"dpo-nll", "dpo-norm"}),
    ("malt-data exp", {"export", "explain"}),
]


@pytest.mark.parametrize(("line", "offered"), CASES, ids=[line for line, _ in CASES])
def test_names_are_offered(
    folder: Path, monkeypatch: pytest.MonkeyPatch, line: str, offered: set[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MALT_FOREST", raising=False)
    *words, incomplete = line.split(" ")[1:]
    completer = ShellComplete(main, {}, "malt-data", "_MALT_DATA_COMPLETE")
    found = completer.get_completions(words, incomplete)
    assert {item.value for item in found if item.type == "plain"} == offered


def test_where_no_name_fits_the_shell_completes_paths(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    completer = ShellComplete(main, {}, "malt-data", "_MALT_DATA_COMPLETE")
    for words, kind in (["stats"], "dir"), (["build", "--pipeline"], "file"):
        (item,) = completer.get_completions(words, "mine")
        assert (item.type, item.value) == (kind, "mine")


@pytest.mark.parametrize("damage", ["", "[]", '{"spec": 1}', "[" * 100_000, '{"spec": {}}'])
def test_a_damaged_forest_still_offers_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "forest").mkdir()
    (tmp_path / "forest" / "forest.json").write_text(damage)
    completer = ShellComplete(main, {}, "malt-data", "_MALT_DATA_COMPLETE")
    assert [item.value for item in completer.get_completions(["export", "--role"], "")] == ["all"]


SHELLS = {
    "bash": (
        'eval "$(_MALT_DATA_COMPLETE=bash_source malt-data)"; '
        'COMP_WORDS=(malt-data export --role ""); COMP_CWORD=3; '
        '_malt_data_completion malt-data; printf "%s\\n" "${COMPREPLY[@]}"'
    ),
    "fish": (
        "_MALT_DATA_COMPLETE=fish_source malt-data | source; complete -C 'malt-data export --role '"
    ),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes_roles(folder: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    kept = {name: value for name, value in os.environ.items() if name != "MALT_FOREST"}
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    run = subprocess.run(
        [shell, "-c", SHELLS[shell]], cwd=folder, env=kept | {"PATH": path},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert set(run.stdout.split()) == {"generator", "verifier", "refiner", "all"}, run.stderr


def test_completing_a_role_imports_no_heavy_library(folder: Path) -> None:
    code = (
        "import sys\nfrom malt_data.cli import main\n"
        "try:\n    main(prog_name='malt-data')\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'polars', 'duckdb', 'pyarrow', 'pydantic', 'numpy', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    asked = {"COMP_WORDS": "malt-data export --role ", "COMP_CWORD": "3"}
    env = {**os.environ, **asked, "_MALT_DATA_COMPLETE": "bash_complete"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "plain,refiner" in run.stdout


def test_help_and_readme_say_how_to_switch_it_on() -> None:
    bash = 'eval "$(_MALT_DATA_COMPLETE=bash_source malt-data)"'
    readme = (ROOT / "README.md").read_text("utf-8")
    assert bash in str(main.epilog)
    for line in (
        bash, bash.replace("bash", "zsh"), "_MALT_DATA_COMPLETE=fish_source malt-data | source",
    ):  # fmt: skip
        assert line in readme
