"""Progress lines on stderr when it is not a terminal."""

import time

import pytest

from malt_data.commands import progress


def test_prints_an_occasional_line_with_the_eta_of_the_current_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 10.0, 20.0, 30.0, 40.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress.Progress("team") as task:
        task.update(1, 5)  # at 10 s: too early for a line
        task.update(4, 5)
        task.update(1, 9)  # at 30 s: another stage starts
        task.update(2, 9)
    assert capsys.readouterr().err.splitlines() == ["team, 4/5, ETA 0:05", "team, 2/9, ETA 0:35"]
