"""Progress on stderr: a bar with an ETA on a terminal, an occasional line elsewhere.

Builds count completions, not trees: trees finish in bursts, so their ETA would jump.
"""

import sys
import time
from typing import TYPE_CHECKING, Self

import click

from malt_data.display import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from malt_data.builders.build import BuildReport

_SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Progress of a long task whose length is known; shows nothing in the first second.

    `update` may start over with another total, as training a team does for each stage.
    """

    def __init__(self, task: str) -> None:
        self._name = task
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._started = self._last_line = time.monotonic()
        self._done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def note(self, text: str) -> None:
        """Print one line without disturbing the bar."""
        text = printable(text)
        if self._bar is None:
            click.echo(text, err=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False)

    def update(self, done: int, total: int, state: str | None = None, unit: str = "") -> None:
        """Show `done` of `total`, labelled with `state` (default: the task's name)."""
        now = time.monotonic()
        if done < self._done:
            self._started = now
        self._done = done
        if sys.stderr.isatty():
            if now - self._started > 1 or self._bar is not None:
                self._draw(done, total, state or self._name)
        elif now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            eta = _format_seconds((now - self._started) * max(0, total - done) / max(1, done))
            click.echo(f"{state or self._name}, {done}/{total}{unit}, ETA {eta}", err=True)

    def _draw(self, done: int, total: int, state: str) -> None:
        if self._bar is None or self._task is None:
            self._bar = _new_bar()
            self._task = self._bar.add_task("", total=total, state=state)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, state=state)


class BuildProgress(Progress):
    """Progress of a build, in completions; of an adaptive one, in trees."""

    def __init__(self, nodes_per_tree: int, *, adaptive: bool = False) -> None:
        super().__init__("build")
        self._adaptive = adaptive
        self._nodes_per_tree = nodes_per_tree

    def on_progress(self, report: "BuildReport") -> None:
        total = (report.asked - report.before - report.elsewhere) * self._nodes_per_tree
        if self._adaptive:  # how many are added is not known before
            done = report.grown + len(report.failed)
            trees = total // self._nodes_per_tree
            self.update(done, trees, _state(report), " trees")
            return
        self.update(report.completions, total, _state(report), " completions")


def _state(report: "BuildReport") -> str:
    failed = f", {len(report.failed)} failed" if report.failed else ""
    return f"{report.before + report.grown}/{report.asked} trees{failed}"


def _format_seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _new_bar() -> "Bar":
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.fields[state]}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=4,
    )
