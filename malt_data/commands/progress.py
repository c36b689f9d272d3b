"""Progress on stderr: a bar on a terminal, an occasional line elsewhere, both with rate and ETA.

Builds count completions, not trees: trees finish in bursts, so their ETA would jump.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

import click

from malt_data.display import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from malt_data.builders.build import BuildReport

_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_BETWEEN_FRAMES = 0.1
_WINDOW = 60.0
"""Seconds over which a rate is measured."""
_NARROWEST_BAR = 4


class Pace:
    """How fast a count has grown of late; a count that falls starts anew."""

    def __init__(self) -> None:
        self._count, self._now = 0, time.monotonic()
        self._marks = deque([(self._now, 0)])

    def add(self, count: int, now: float) -> None:
        if count < self._count or not count:
            self._marks = deque([(now if not count else self._now, 0)])
        self._count, self._now = count, now
        if now - self._marks[-1][0] >= 1:
            self._marks.append((now, count))
        while len(self._marks) > 1 and now - self._marks[1][0] >= _WINDOW:
            self._marks.popleft()

    @property
    def rate(self) -> float | None:
        """Counts per second; None as long as nothing has been counted."""
        began, before = self._marks[0]
        if self._count == before or self._now == began:
            return None
        return (self._count - before) / (self._now - began)


class Progress:
    """Progress of a long task whose length is known; shows nothing in the first second.

    `update` may start over with another total, as training a team does for each stage.
    """

    def __init__(self, task: str) -> None:
        self._name = task
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._started = self._last_line = time.monotonic()
        self._pace = Pace()

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

    def of(self, unit: str) -> Callable[[int, int], None]:
        """Return an `update` that counts this unit."""
        return lambda done, total: self.update(done, total, unit=unit)

    def update(
        self,
        done: int,
        total: int,
        state: str | None = None,
        unit: str = "",
        *,
        rate: str | None = None,
        counts: Sequence[tuple[int, str]] = (),
    ) -> None:
        """Show `done` of `total`, labelled with `state` (default: the task's name).

        rate: what to show in place of units per second. counts: further ones, with their names.
        """
        now = time.monotonic()
        self._pace.add(done, now)
        state = state or self._name
        speed = self._pace.rate
        rate = rate or rate_of(speed, unit)
        eta = "ETA " + ("?" if speed is None else format_seconds((total - done) / speed))
        if sys.stderr.isatty():
            if now - self._started > 1 or self._bar is not None:
                share = f"{100 * done // max(1, total)} %"
                self._draw(done, total, state, [share, rate, eta], counts)
        elif now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            counted = f"{done}/{total} {unit}".rstrip()
            facts = [state, "" if unit and unit in state else counted, rate, eta]
            facts += [f"{count} {name}" for count, name in counts]
            click.echo(", ".join(filter(None, facts)), err=True)

    def _draw(
        self,
        done: int,
        total: int,
        state: str,
        facts: list[str],
        counts: Sequence[tuple[int, str]],
    ) -> None:
        if self._bar is None or self._task is None:
            self._bar = _new_bar()
            self._task = self._bar.add_task("", total=total, state=state, facts="")
            self._bar.start()
        shown = fit(state, facts, counts, self._bar.console.width)
        self._bar.update(self._task, completed=done, total=total, state=state, facts=shown)


class BuildProgress(Progress):
    """Progress of a build, in completions; of an adaptive one, in trees."""

    def __init__(self, nodes_per_tree: int, *, adaptive: bool = False) -> None:
        super().__init__("build")
        self._adaptive = adaptive
        self._nodes_per_tree = nodes_per_tree
        self._completions = Pace()
        self._shown: float | None = None
        self._report: BuildReport | None = None

    def __exit__(self, *error: object) -> None:
        if self._report is not None and self._bar is not None:
            self._show(self._report)  # the last state, whenever the last frame was
        super().__exit__(*error)

    def on_progress(self, report: "BuildReport") -> None:
        """Show the report if it is time; called with every completion, so it must be quick."""
        now = time.monotonic()
        if self._shown is None:
            self._note_earlier(report)
        elif now - self._shown < _SECONDS_BETWEEN_FRAMES:
            return
        self._shown, self._report = now, report
        self._show(report)

    def _show(self, report: "BuildReport") -> None:
        self._completions.add(report.completions, time.monotonic())
        trees = report.asked - report.before - report.elsewhere
        done, total, unit = report.completions, trees * self._nodes_per_tree, "completions"
        if self._adaptive:  # how many are added is not known before
            done, total, unit = report.grown + len(report.failed), trees, "trees"
        tokens, pairs = report.completion_tokens, report.pairs
        if report.earlier is not None:
            tokens += report.earlier.completion_tokens
            pairs += report.earlier.pairs
        rate = rate_of(self._completions.rate, "completions")
        counts = [(tokens, "tokens"), (pairs, "pairs")]
        self.update(done, total, _state(report), unit, rate=rate, counts=counts)

    def _note_earlier(self, report: "BuildReport") -> None:
        if report.before and (earlier := report.earlier):
            self.note(
                f"Resuming a forest of {earlier.trees} trees with {earlier.pairs} usable pairs in "
                f"{earlier.completion_tokens} tokens."
            )


def _state(report: "BuildReport") -> str:
    failed = f", {len(report.failed)} failed" if report.failed else ""
    return f"{report.before + report.grown}/{report.asked} trees{failed}"


def rate_of(per_second: float | None, unit: str) -> str:
    """Return a rate, e.g. 8.3 trees/s; nothing if it is not known yet."""
    if per_second is None:
        return ""
    number = f"{per_second:.0f}" if per_second >= 10 else f"{per_second:.2g}"
    return f"{number} {unit}/s" if unit else f"{number}/s"


def format_seconds(seconds: float) -> str:
    """Return a duration: 1:05 (minutes), 2:01:05 (hours) or 5 days."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours / 24:.0f} days"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def fit(state: str, facts: Sequence[str], counts: Sequence[tuple[int, str]], width: int) -> str:
    """Return the facts and counts on one line that leaves room for `state` and a short bar.

    Where that is too long, the unit of the rate, digits of tokens and the first fact, a percentage,
    are left out, in this order; pairs stay exact.
    """
    left = width - len(state) - _NARROWEST_BAR - 3
    short = [fact.partition(" ")[0] + "/s" if fact.endswith("/s") else fact for fact in facts]
    exact = [f"{count} {name}" for count, name in counts]
    rounded = [f"{_rounded(count) if name == 'tokens' else count} {name}" for count, name in counts]
    line = ""
    for parts in ([*facts, *exact], [*short, *exact], [*short, *rounded], [*short[1:], *rounded]):
        line = "  ".join(filter(None, parts))
        if len(line) <= left:
            break
    return line


def _rounded(count: int) -> str:
    for size, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f}{name}"
    return str(count)


def _new_bar() -> "Bar":
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    return Bar(
        TextColumn("{task.fields[state]}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[facts]}", markup=False, table_column=Column(no_wrap=True)),
        TextColumn(""),  # the last column of a terminal stays free
        console=Console(stderr=True),
        refresh_per_second=4,
    )
