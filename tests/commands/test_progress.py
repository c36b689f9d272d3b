"""What long work says on stderr where that is no terminal."""

import time

import pytest

from malt_data.commands import progress


def test_a_line_now_and_then_with_an_eta_of_the_stage_at_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 10.0, 20.0, 30.0, 40.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress.Steps("team") as steps:
        steps.update(1, 5)  # at 10 s: too early for a line
        steps.update(4, 5)
        steps.update(1, 9)  # at 30 s: another stage begins
        steps.update(2, 9)
    assert capsys.readouterr().err.splitlines() == ["team, 4/5, ETA 0:05", "team, 2/9, ETA 0:35"]
