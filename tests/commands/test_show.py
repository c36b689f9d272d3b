"""`malt-data show` without an id, and on a terminal."""

import json
import shlex
import sys
from pathlib import Path

import click
import pytest
from shell import malt
from synthetic import make_forest
from terminal import on_terminal

from malt_data.forests.forest import open_forest
from malt_data.forests.instructive import instructive_tree

PAGER = f"{sys.executable} -c 'import sys; print(\"paged\", sys.stdin.read())'"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_forest(tmp_path / "forest", trees=6, n=(3, 3, 3))
    return tmp_path


def test_it_says_which_tree_it_chose_and_how_to_see_another(folder: Path) -> None:
    choice = instructive_tree(open_forest(folder / "forest"))
    assert choice is not None
    for given in [], [str(folder / "forest")]:
        run = malt("show", *given, cwd=folder)
        assert run.stdout.startswith(choice.question_id)
        assert f"Tree {choice.question_id}: {choice.reason()}." in run.stderr
        other = ["malt-data", "show", *given, str(choice.another)]
        assert f"Another one: {shlex.join(other)}" in run.stderr.splitlines()
    rows = json.loads(malt("show", "--json", cwd=folder).stdout)
    assert [row["node"] for row in rows] == [*range(39)]
    assert {row["question_id"] for row in rows} == {choice.question_id}
    run = malt(*other[1:], cwd=folder)
    assert run.stdout.startswith(str(choice.another))
    assert "Another" not in run.stderr


def test_only_a_tree_longer_than_the_screen_is_paged(folder: Path) -> None:
    for rows, paged in (24, True), (60, False):
        shown = on_terminal(["show"], folder, rows=rows, env={"PAGER": PAGER})
        assert shown.returncode == 0
        assert ("paged" in shown.text) == paged
        tree = click.unstyle(shown.text).splitlines()
        assert max(len(line) for line in tree if "── " in line) <= 80
        assert sum("── " in line for line in tree) > 20


def test_colours_survive_less_and_a_missing_pager_does_no_harm(folder: Path) -> None:
    for pager in ("less", "no-such-pager"):
        shown = on_terminal(["show"], folder, env={"PAGER": pager, "LESS": ""}, typed=b"q")
        assert "\x1b[1;3" in shown.text, pager
        assert "ESC" not in shown.text


def test_nothing_is_paged_where_there_is_no_terminal(folder: Path) -> None:
    run = malt("show", cwd=folder, env={"PAGER": PAGER, "PATH": ""})
    assert "paged" not in run.stdout
    assert "\x1b" not in run.stdout


def test_the_question_in_an_id_may_be_cut_short(folder: Path) -> None:
    tree = min(open_forest(folder / "forest").done)
    whole, short = (malt("show", f"{name}/g1", cwd=folder) for name in (tree, tree[:6]))
    assert whole.returncode == 0, whole.stderr
    assert short.stdout == whole.stdout
    facts = malt("explain", f"{tree[:6]}/g1/v0", "--json", cwd=folder)
    assert json.loads(facts.stdout)["path"][-1]["node_id"] == f"{tree}/g1/v0"
    missing = malt("show", f"{tree[:6]}/g7", cwd=folder)
    assert "has no node" in missing.stderr
