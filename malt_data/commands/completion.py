"""What a shell offers after TAB: forests, roles, question sets, pipelines, recipes.

It runs at every TAB, so nothing here imports more than it lists: names come from folders and from
forest.json. Choices are completed by click.
"""

import json
from collections.abc import Iterable
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from malt_data.schemas import layout

Items = list[CompletionItem]
Parameter = click.Parameter
_MOST_ENTRIES = 2_000
"""Entries of a folder that are looked at."""


def forests(ctx: click.Context, param: Parameter, incomplete: str) -> Items:
    """Return the forests that the word may become; else let the shell complete folders."""
    if param.nargs == -1 and ctx.params.get(param.name or ""):
        return []  # what comes after FOREST is an id, a query or a repo
    above = incomplete.rpartition("/")[0] + "/" if "/" in incomplete else ""
    try:
        entries = sorted(path.name for path in islice(Path(above or ".").iterdir(), _MOST_ENTRIES))
    except (OSError, ValueError):
        entries = []
    found = [above + name for name in entries if (Path(above, name) / layout.MANIFEST).exists()]
    return _starting(found, incomplete) or [CompletionItem(incomplete, type="dir")]


def roles(ctx: click.Context, param: Parameter, incomplete: str) -> Items:
    """Return the roles of the forest named so far, or of the default one; and `all`."""
    named = ctx.params.get("forest") or ctx.params.get("dataset")
    if named is None and ctx.args:  # while an option lacks its value, click names no argument
        named = ctx.args[0]
    try:
        manifest = json.loads(
            Path(named or layout.default_folder(), layout.MANIFEST).read_text("utf-8")
        )
        names = [str(turn["role"]) for turn in manifest["spec"]["pipeline"]["turns"]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        names = []  # none there, or damaged
    return _starting([*dict.fromkeys(names), "all"], incomplete)


def questions(ctx: click.Context, param: Parameter, incomplete: str) -> Items:
    """Return the question sources that have a name; else let the shell complete files."""
    from malt_data.questions.benchmarks import BENCHMARKS

    names = ["embedded", *BENCHMARKS, "reasoning-gym:"]
    return _starting(names, incomplete) or [CompletionItem(incomplete, type="file")]


def pipelines(ctx: click.Context, param: Parameter, incomplete: str) -> Items:
    """Return the shipped pipelines; else let the shell complete files."""
    return _named("malt_data.schemas", "pipelines", incomplete)


def recipes(ctx: click.Context, param: Parameter, incomplete: str) -> Items:
    """Return the shipped recipes; else let the shell complete files."""
    return _named("malt_data.trainers", "recipes", incomplete)


def _named(package: str, folder: str, incomplete: str) -> Items:
    files: Any = resources.files(package).joinpath(folder).iterdir()
    names = sorted(file.name.removesuffix(".toml") for file in files)
    return _starting(names, incomplete) or [CompletionItem(incomplete, type="file")]


def _starting(names: Iterable[str], incomplete: str) -> Items:
    """Return the names that the word may become, without those that would garble the shell."""
    return [
        CompletionItem(name)
        for name in names
        if name.startswith(incomplete) and name.isprintable() and not set(name) & set(" ,\"'\\")
    ]
