"""SIGKILL before any change of the file system: what the messages say to do then finishes the work.

MALT_KILLS=100 MALT_KILLS_SEED=1 pytest tests/forests/test_kills.py kills more often, elsewhere.
"""

import json
import os
import random
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from killing import Running, start
from openai_server import OpenAIServer, Reply

from malt_data.forests.forest import open_forest
from malt_data.forests.labels import stamped
from malt_data.forests.parts import NodeParts
from malt_data.forests.verify import verify
from malt_data.storage.parquet import write_table

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("MALT_KILLS", "15"))
SEED = int(os.environ.get("MALT_KILLS_SEED", "0"))
TREES, GROWN = 6, 4


def answer(messages: list[dict[str, str]], seed: int | None, sample: int) -> Reply:
    """Right about half the time, by the request alone; math extracts `7`, numeric `$7$ apples`."""
    a, b = map(int, re.findall(r"(\d+) plus (\d+)", messages[-1]["content"])[0])
    wrong = random.Random(f"{messages}{seed}{sample}").randrange(2)
    return Reply(f"Final Answer: ${a + b + wrong}$ apples")


@dataclass(frozen=True)
class Place:
    """A folder with a forest `f` in it, and what grows it."""

    folder: Path
    server: OpenAIServer

    @property
    def forest(self) -> Path:
        return self.folder / "f"

    def run(self, *command: object, kill_at: int = 0, name: str = "log") -> Running:
        return start(list(command), self.folder / f"{name}.txt", kill_at)

    def build(self, trees: int, **how: int | str) -> Running:
        words = ["build", "--questions", self.folder.parent / "q.jsonl", "--engine", "openai",
                 "--model", "m", "--base-url", self.server.base_url, "--n", 2, "--limit", trees,
                 "--out", self.forest]  # fmt: skip
        return self.run(*words, **how)  # type: ignore[arg-type]

    def copy(self, name: str, work: str = "") -> "Place":
        shutil.copytree(self.folder, self.folder.parent / name)
        place = Place(self.folder.parent / name, self.server)
        if work == "again":
            spoil(place)
        return place


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A forest with a part for each of GROWN trees."""
    folder = tmp_path_factory.mktemp("kills")
    rows = [
        {"question": f"What is {i} plus {i + 3}?", "answer": str(2 * i + 3)} for i in range(TREES)
    ]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "base").mkdir()
    with OpenAIServer(answer, models=("m",)) as server:
        place = Place(folder / "base", server)
        assert place.build(GROWN).wait() == 0
        forest = open_forest(place.forest)
        [merged] = forest.parts.paths()
        frame = pl.read_parquet(merged).with_columns(pl.col("role").cast(pl.String))
        merged.unlink()
        for index, tree in enumerate(frame.partition_by("question_id", maintain_order=True)):
            table = stamped(tree, forest.manifest.labels)
            write_table(merged.with_name(f"part-{index:016}.parquet"), table)
        assert verify(open_forest(place.forest)) == []
        yield place


def spoil(place: Place) -> None:
    """Grade every tree wrongly, as an older version might have."""
    forest = open_forest(place.forest)
    for path in forest.parts.paths():
        frame = pl.read_parquet(path).with_columns(
            pl.col("role").cast(pl.String),
            verdict=pl.lit("wrong"),
            correct=pl.lit(False),
            reward=pl.when(pl.col("depth") == 3).then(0.0),
            value=pl.lit(0.0),
            label=pl.lit(False),
        )
        write_table(path, stamped(frame, forest.manifest.labels))


RELABELS: dict[str, list[object]] = {
    "threshold": ["--threshold", 0.7],
    "pooling": ["--pooling", "local", "--threshold", 0.4],
    "grader": ["--grader", "math"],
    "again": ["--grader", "auto"],
    "copy": ["--grader", "math", "--out", "{folder}/copy"],
}
WORK = ("build", "merge", "merge and relabel", *RELABELS, "export")
PAIRS = [("build", "build"), ("build", "threshold"), ("build", "verify"), ("again", "pooling"),
         ("export", "threshold"), ("merge", "export")]  # fmt: skip


def begin(place: Place, work: str, **how: int | str) -> Running:
    if work in ("build", "merge", "merge and relabel"):
        return place.build(TREES if work == "build" else GROWN, **how)
    if work == "verify":
        words: list[object] = ["verify", place.forest]
    elif work == "export":
        words = ["export", place.forest, "--role", "verifier", "--format", "dpo"]
    else:
        options = [str(word).format(folder=place.folder) for word in RELABELS[work]]
        words = ["relabel", place.forest, *options]
    return place.run(*words, **how)  # type: ignore[arg-type]


def finish(place: Place, work: str) -> None:
    """Do what a user does: the same again, unless a message names another command first."""
    if work == "merge and relabel":
        assert begin(place, "threshold").wait() == 0
    for _ in range(4):
        done = place.build(GROWN)
        if done.wait() == 0 or "is labelled with Labels(grader='math'" in done.printed:
            break  # such a forest does not grow on
        assert "Traceback" not in done.printed
        told = re.search(r"malt-data (relabel .*)", done.printed)
        assert told, done.printed
        assert place.run(*shlex.split(told[1])).wait() == 0
    if work == "copy" and (place.folder / "copy").exists():
        return
    if work in RELABELS and committed(place.forest) != committed(
        place.folder.parent / "base" / "f"
    ):
        return
    done = begin(place, work)
    assert done.wait() == 0, done.printed


def committed(forest: Path) -> object:
    return open_forest(forest).manifest.labelled


def rows(forest: Path) -> list[dict[str, object]]:
    return open_forest(forest).nodes().drop("latency").sort("node_id").collect().to_dicts()


def tables(place: Place) -> dict[str, object]:
    """Return what a whole run makes, but for where it lies and how long it took."""
    labels = open_forest(place.forest).manifest.labels
    found: dict[str, object] = {"nodes": rows(place.forest), "labels": labels}
    if (place.folder / "copy").exists():
        found["copy"] = rows(place.folder / "copy")
    for path in sorted(place.forest.glob("exports/*/*.parquet")):
        found[path.name] = pq.read_table(path).sort_by("chosen_id").to_pylist()
    return found


def require_sound(place: Place, expected: dict[str, object]) -> None:
    assert tables(place) == expected
    for forest in (place.forest, place.folder / "copy"):
        if forest.exists():
            checked = place.run("verify", forest)
            assert checked.wait() == 0, checked.printed
    left = [path for path in place.folder.rglob(".*") if path.suffix in (".tmp", ".new", ".old")]
    assert left == []


@pytest.fixture(scope="module")
def undisturbed(base: Place) -> dict[str, tuple[int, dict[str, object]]]:
    """Return how many calls each piece of work makes, and what it leaves."""
    found = {}
    for work in WORK:
        place = base.copy(f"whole-{work}", work)
        done = begin(place, work)
        assert done.wait() == 0, done.printed
        if work == "merge and relabel":
            assert begin(place, "threshold").wait() == 0
        found[work] = done.calls, tables(place)
    return found


def test_what_a_kill_leaves_is_finished_by_what_is_said(
    base: Place, undisturbed: dict[str, tuple[int, dict[str, object]]]
) -> None:
    source = random.Random(SEED)
    for kill in range(KILLS):
        work = WORK[kill % len(WORK)]
        calls, expected = undisturbed[work]
        at = [source.randint(1, calls) for _ in range(1 + kill % 2)]  # every other one twice
        place = base.copy(f"kill-{kill}", work)
        for once in at:
            begin(place, work, kill_at=once).wait()
        with told(f"kill {kill} of seed {SEED}: {work} before change {at}"):
            require_readable(place, base)
            kept = NodeParts(place.forest / "nodes").trees()
            base.server.requests.clear()
            finish(place, work)
            require_sound(place, expected)
            assert not kept & asked(base.server)
        shutil.rmtree(place.folder)


WAIT = (
    "Wait until it ends|[Rr]un the same command again|in the middle of a relabel|is labelled with"
)
"""What the later of two commands may say."""


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_two_at_once_of_which_one_is_killed(
    base: Place, undisturbed: dict[str, tuple[int, dict[str, object]]], pair: tuple[str, str]
) -> None:
    source = random.Random(f"{SEED}{pair}")
    for kill in range(1 + KILLS // 20):
        at = source.randint(1, undisturbed[pair[0]][0]) if kill else 0  # the first one lives
        place = base.copy(f"pair-{'-'.join(pair)}-{kill}")
        both = [
            begin(place, pair[0], kill_at=at, name="first"),
            begin(place, pair[1], name="second"),
        ]
        with told(f"kill {kill} of seed {SEED}: {pair} before change {at}"):
            for running in both:
                if running.wait() not in (0, -9):
                    assert pair[1] != "verify", running.printed
                    assert re.search(WAIT, running.printed), running.printed
            require_readable(place, base)
            finish(place, pair[0])
            finish(place, pair[1])
            for work in pair:
                if work in RELABELS:  # they may have come in either order
                    assert begin(place, work).wait() == 0
            assert place.build(GROWN).wait() == 0
            assert place.run("verify", place.forest, name="verify").wait() == 0
            require_readable(place, base)
            grown = TREES if "build" in pair else GROWN
            assert len(NodeParts(place.forest / "nodes").trees()) == grown
        shutil.rmtree(place.folder)


@contextmanager
def told(what: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        print(what)  # noqa: T201
        raise


def require_readable(place: Place, base: Place) -> None:
    """No tree twice and none lost, before anything has been done about the kill."""
    found = samples(place)
    assert len(found) == len(set(found))
    assert set(samples(base)) <= set(found)


def samples(place: Place) -> list[tuple[object, ...]]:
    """Return what no relabel may change."""
    return open_forest(place.forest).nodes().select("node_id", "text", "seed").collect().rows()


def asked(server: OpenAIServer) -> set[str]:
    """Return the ids of the questions that the server was asked."""
    from malt_data.schemas.ids import question_id

    texts = [body["messages"][-1]["content"] for body in server.bodies]
    return {question_id(re.findall(r"What is \d+ plus \d+\?", text)[0], None) for text in texts}
