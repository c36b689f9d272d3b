"""The progress of a build, on stderr: a bar with ETA on a terminal, else a line now and then.

It counts completions, not trees: trees come in bursts, completions give an ETA that holds.
"""

import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from malt_data.builders.build import Report

_SECONDS_A_LINE = 15.0


class Progress:
    """Context manager; `update` is a build's `watch`, `note` its `note`."""

    def __init__(self, nodes_a_tree: int) -> None:
        self._nodes_a_tree = nodes_a_tree
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._started = time.monotonic()
        self._spoken = self._started

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def note(self, text: str) -> None:
        """Say one line beside the bar."""
        if self._bar is None:
            click.echo(text, err=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False)

    def update(self, report: "Report") -> None:
        total = (report.asked - report.before - report.elsewhere) * self._nodes_a_tree
        if sys.stderr.isatty():
            self._draw(report, total)
        elif time.monotonic() - self._spoken > _SECONDS_A_LINE:
            self._spoken = time.monotonic()
            spent = self._spoken - self._started
            eta = spent * max(0, total - report.completions) / max(1, report.completions)
            click.echo(
                f"{_state(report)}, {report.completions}/{total} completions, ETA {_clock(eta)}",
                err=True,
            )

    def _draw(self, report: "Report", total: int) -> None:
        if self._bar is None or self._task is None:
            self._bar = _bar()
            self._task = self._bar.add_task("", total=total, state="")
            self._bar.start()
        self._bar.update(
            self._task, completed=report.completions, total=total, state=_state(report)
        )


class Steps:
    """A bar for anything of known length, shown once it has taken a second; silent elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._started = time.monotonic()
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, total: int) -> None:
        if self._bar is None and sys.stderr.isatty() and time.monotonic() - self._started > 1:
            self._bar = _bar()
            self._task = self._bar.add_task("", total=total, state=self._what)
            self._bar.start()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)


def _state(report: "Report") -> str:
    failed = f", {len(report.failed)} failed" if report.failed else ""
    return f"{report.before + report.grown}/{report.asked} trees{failed}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _bar() -> "Bar":
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
