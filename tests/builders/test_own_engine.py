"""A build with an engine of the caller's own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import malt_data
from malt_data.engines import Completion, Gate, Request
from malt_data.errors import EngineDown, ForestError


class Constant:
    """An engine that always says the same; one place, so that trees have to wait for it."""

    model = "constant"

    def __init__(self, text: str) -> None:
        self.gate = Gate(1)
        self.text = text
        self.requests = 0
        self.closed = False

    async def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        for index, seed in enumerate(request.seeds):
            async with self.gate.slot(request.priority):
                self.requests += 1
                yield index, Completion(self.text, "stop", None, None, seed)

    async def close(self) -> None:
        self.closed = True


class Down(Constant):
    async def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        raise EngineDown("no such model")
        yield  # pragma: no cover


def test_it_samples_and_is_left_open_for_the_next_build(tmp_path: Path) -> None:
    engine = Constant("Final Answer: 3")
    spec = malt_data.BuildSpec(n=1, limit=2, engine="mine")
    for name in ("one", "two"):  # each in an event loop of its own
        report = malt_data.build_forest(spec, tmp_path / name, engine=engine)
        assert report.grown == 2
    assert engine.requests == 12
    assert not engine.closed
    forest = malt_data.open_forest(str(tmp_path / "two"))
    assert forest.nodes().collect()["model"].unique().to_list() == ["constant"]
    assert forest.manifest.spec.engine == "mine"
    assert malt_data.verify(forest) == []


def test_where_it_fails_nothing_is_left_behind(tmp_path: Path) -> None:
    spec = malt_data.BuildSpec(n=1, limit=2)
    with pytest.raises(EngineDown, match="no such model"):
        malt_data.build_forest(spec, tmp_path / "f", engine=Down(""))
    assert not (tmp_path / "f").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ForestError, match="contains other files"):
        malt_data.build_forest(spec, tmp_path / "other", engine=Down(""))
    assert [path.name for path in (tmp_path / "other").iterdir() if path.name[0] != "."] == [
        "thesis.tex"
    ]
