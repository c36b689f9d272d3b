"""Progress on stderr: rates, ETAs, and what fits on a line."""

import time

import pytest

from malt_data.builders.build import BuildReport
from malt_data.commands.progress import BuildProgress, Pace, Progress, fit, format_seconds, rate_of
from malt_data.forests.totals import Totals


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_prints_an_occasional_line_with_the_rate_and_eta_of_the_current_stage(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Progress("team")
    for clock.now, done, total in (10, 1, 5), (20, 4, 5), (30, 1, 9), (40, 2, 9):
        task.of("steps")(done, total)  # at 10 s: too early for a line; at 30 s another stage starts
    assert capsys.readouterr().err.splitlines() == [
        "team, 4/5 steps, 0.2 steps/s, ETA 0:05",
        "team, 2/9 steps, 0.1 steps/s, ETA 1:10",
    ]


def test_a_build_tells_its_tokens_and_pairs_and_what_was_there(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = BuildProgress(nodes_per_tree=39)
    report = BuildReport(asked=16, before=4, earlier=Totals(5, 12, 800, 300))
    clock.now = 100  # the model has been loaded
    progress.on_progress(report)
    clock.now = 120
    report.completions, report.completion_tokens, report.pairs, report.grown = 234, 1000, 30, 6
    report.failed = {"q": "lost"}
    progress.on_progress(report)
    assert capsys.readouterr().err.splitlines() == [
        "Resuming a forest of 5 trees with 12 usable pairs in 300 tokens.",
        "4/16 trees, 0/468 completions, ETA ?, 300 tokens, 12 pairs",
        "10/16 trees, 1 failed, 234/468 completions, 12 completions/s, ETA 0:20, 1300 tokens, "
        "42 pairs",
    ]


def test_an_adaptive_build_counts_trees_and_the_rate_of_completions(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = BuildProgress(nodes_per_tree=14, adaptive=True)
    report = BuildReport(asked=10)
    progress.on_progress(report)
    clock.now = 50
    report.completions, report.completion_tokens, report.pairs, report.grown = 100, 500, 7, 5
    progress.on_progress(report)
    assert capsys.readouterr().err.splitlines() == [
        "5/10 trees, 2 completions/s, ETA 0:50, 500 tokens, 7 pairs"
    ]


def test_a_pace_forgets_what_was_a_minute_ago(clock: Clock) -> None:
    pace = Pace()
    assert pace.rate is None
    for second in range(1, 301):
        pace.add(100 * second if second <= 100 else 10_000 + 2 * (second - 100), second)
    assert pace.rate == pytest.approx(2)


def test_a_burst_after_a_long_wait_counts_the_wait(clock: Clock) -> None:
    pace = Pace()
    pace.add(0, 30.0)
    for done in range(1, 65):  # one batch
        pace.add(done, 50.0)
    assert pace.rate == pytest.approx(64 / 20)


@pytest.mark.parametrize(
    ("state", "scale"),
    [("12/16 trees", 1), ("812/1024 trees, 3 failed", 100), ("12345/100000 trees", 100_000)],
)
def test_the_line_fits_beside_the_state_and_a_bar(state: str, scale: int) -> None:
    rate, eta = rate_of(0.083 * scale, "completions"), format_seconds(62.0 * scale)
    counts = [(7310 * scale, "tokens"), (48 * scale, "pairs")]
    line = fit(state, ["75 %", rate, f"ETA {eta}"], counts, 80)
    assert len(f"{state} ━━━━ {line}") <= 79
    for shown in (f"ETA {eta}", f"{48 * scale} pairs", " tokens", "/s"):
        assert shown in line


def test_durations_and_rates_are_short() -> None:
    assert [*map(format_seconds, (0, 59.6, 3600, 3e5, 1e6))] == [
        *("0:00", "1:00", "1:00:00", "83:20:00", "12 days"),
    ]
    assert [rate_of(rate, "trees") for rate in (None, 0.0123, 8.26, 1234.5)] == [
        *("", "0.012 trees/s", "8.3 trees/s", "1234 trees/s"),
    ]
