"""Is a forest the same when a hundred processes die on the way, and how much is sampled twice?

    PYTHONPATH=tests python benchmarks/kills.py                 # 100 kills, some 25 minutes
    PYTHONPATH=tests python benchmarks/kills.py --kills 6 --trees 200

`malt-data build --replicas 2` with a scripted engine, whose completions take 10 to 30 ms, grows one
forest after another. Meanwhile replicas, idle workers of Ray and the driver are killed (-9) or
stopped (SIGSTOP) at random times. A driver that was killed is run again. Each forest is compared
with that of a single process: every column except the latency.

Prints what was sampled again because of each kind of kill. A sample counts from its beginning, so
one that was cut short counts in full. That a killed driver loses the trees in flight, and those
finished within the last second, is the price of any kill of a build, with replicas or without.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import scripted

SECONDS = 0.02
SILENCE = 2.0
"""After which a stopped replica is replaced; 30 s by default."""
KINDS = {
    "replica killed": 7,
    "replica stopped": 3,
    "worker killed": 2,
    "driver killed": 2,
    "driver stopped": 2,
}
"""How often each is tried. A worker is one of Ray's that is not a replica yet: a replica is killed,
and then the process that starts in its stead. A driver that was stopped goes on after 3 s."""


@dataclass
class Fate:
    """What was done to some replicas, directly or through their driver."""

    kind: str
    pids: frozenset[int]
    at: float


@dataclass
class Trial:
    """One forest, grown under fire."""

    folder: Path
    questions: Path
    dice: random.Random
    pause: float
    fates: list[Fate] = field(default_factory=list)
    driver: "subprocess.Popen[bytes] | None" = None

    @property
    def forest(self) -> Path:
        return self.folder / "forest"

    def run(self, kinds: Iterator[str], kills: int) -> None:
        """Grow it to its end, with at most so many kills."""
        self.folder.mkdir()
        self.driver = self.start()
        while (code := self.driver.poll()) != 0:
            if code is not None and code != -signal.SIGKILL:
                log = (self.folder / "log").read_text()[-2000:]
                raise SystemExit(f"{log}\nThe driver exited with {code} after {self.fates}.")
            if code is not None:
                self.driver = self.start()
            self.wait(self.dice.uniform(0.2, 2 * self.pause))
            if self.running() and len(self.fates) < kills:
                self.strike(next(kinds))

    def start(self) -> "subprocess.Popen[bytes]":
        return start(self.folder, self.questions, "--replicas", "2")

    def running(self) -> list[int]:
        """Return the replicas of a driver that lives; those that are stopped are not counted."""
        if self.driver is None or self.driver.poll() is not None:
            return []
        return [pid for pid in scripted.replicas(self.folder) if scripted.state(pid) != "T"]

    def wait(self, seconds: float) -> None:
        """Wait, from when there is a replica on, until then or the end of the build."""
        assert self.driver is not None
        while self.driver.poll() is None and not self.running():
            time.sleep(0.05)
        with suppress(subprocess.TimeoutExpired):
            self.driver.wait(seconds)

    def strike(self, kind: str) -> None:
        assert self.driver is not None
        who, how = kind.split()
        pids = self.running()
        target = self.driver.pid if who == "driver" else self.dice.choice(pids)
        if who == "worker":
            self.end("replica killed", target, [target], signal.SIGKILL)
            target = self.starting()
            if not target:  # the build has just ended
                return
        hit = pids if who == "driver" else [target]
        self.end(kind, target, hit, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        if kind == "driver stopped":
            time.sleep(1.5 * SILENCE)
            send(target, signal.SIGCONT)
        elif kind == "driver killed":
            self.driver.wait()

    def end(self, kind: str, target: int, hit: list[int], how: int) -> None:
        self.fates.append(Fate(kind, frozenset(hit), time.time()))
        send(target, how)

    def starting(self) -> int:
        """Wait for a worker of Ray that is not a replica yet; 0: none came."""
        assert self.driver is not None
        deadline = time.monotonic() + 5
        while self.driver.poll() is None and time.monotonic() < deadline:
            with suppress(psutil.Error):
                for child in psutil.Process(self.driver.pid).children(recursive=True):
                    # The raylet has this among its options too.
                    if any(word.endswith("default_worker.py") for word in child.cmdline()[1:3]):
                        return int(child.pid)
            time.sleep(0.02)
        return 0

    def bury(self) -> Counter[str]:
        """End what is still there of it some seconds later; return what it was."""
        deadline = time.monotonic() + 10
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.2)
        what = Counter[str]()
        for pid in left:
            what["stopped" if scripted.state(pid) == "T" else "running"] += 1
            fates = [fate.kind for fate in self.fates if pid in fate.pids]
            print(f"left over: {pid}, {scripted.state(pid)}, {fates}", flush=True)
            send(pid, signal.SIGKILL)
        return what

    def left(self) -> list[int]:
        """Return the replicas, and what was done something to, that still live."""
        assert self.driver is not None
        pids = {pid for fate in self.fates for pid in fate.pids} | {self.driver.pid}
        lives = [pid for pid in pids if scripted.state(pid) not in "XZ"]
        return sorted({*scripted.replicas(self.folder), *lives})

    def again(self) -> tuple[int, Counter[str]]:
        """Return the tokens needed, and those sampled again by the kind of kill."""
        begun: dict[tuple[str, str], list[tuple[float, int, int]]] = defaultdict(list)
        for path in self.folder.glob("samples-*"):
            pid = int(path.name.removeprefix("samples-"))
            for line in path.read_text().splitlines():
                tree, seed, size, at = line.split()
                begun[tree, seed].append((float(at), pid, int(size)))
        needed, why = 0, Counter[str]()
        for times in begun.values():
            *lost, (_, _, tokens) = sorted(times)
            needed += tokens
            for begin, who, _ in lost:
                why[self.cause(who, begin)] += tokens
        return needed, why

    def cause(self, pid: int, at: float) -> str:
        """Return what happened next to a replica that had begun a sample."""
        after = [fate for fate in self.fates if pid in fate.pids and fate.at >= at - 0.01]
        return min(after, key=lambda fate: fate.at).kind if after else "nothing known"


def send(pid: int, what: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, what)


def start(folder: Path, questions: Path, *options: str) -> "subprocess.Popen[bytes]":
    """Start a build in a process of its own, with what it prints in `folder`."""
    script = [sys.executable, scripted.__file__, str(folder), str(SECONDS), str(SILENCE)]
    build = ["build", "--questions", str(questions), "--n", "2", "--out", str(folder / "forest")]
    # Ray misses a worker that dies before it has reported until this is over, 60 s by default, and
    # starts one at a time.
    env = os.environ | {"RAY_worker_register_timeout_seconds": "15"}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen([*script, *build, *options], stdout=log, stderr=log, env=env)


def rows(forest: Path) -> list[dict[str, Any]]:
    """Return the nodes of a forest without their latency, in the order of their ids."""
    nodes = [
        row for path in forest.glob("nodes/*.parquet") for row in pq.read_table(path).to_pylist()
    ]
    for node in nodes:
        del node["latency"]
    return sorted(nodes, key=lambda node: str(node["node_id"]))


def endless(dice: random.Random) -> Iterator[str]:
    """Yield kinds of kills in random order, one of each and then each in its share."""
    cards = list(KINDS)
    while True:
        dice.shuffle(cards)
        yield from cards
        cards = [kind for kind, share in KINDS.items() for _ in range(share)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--trees", type=int, default=4000, help="of each forest, 14 nodes each")
    parser.add_argument(
        "--pause", type=float, default=12.0, help="seconds between kills, on average"
    )
    parser.add_argument("--minutes", type=float, default=60, help="begin no forest after that")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    kinds = endless(dice)
    tokens, differ = 0, 0
    again, done, left = Counter[str](), Counter[str](), Counter[str]()
    started, forests = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="malt-kills-") as name:
        folder = Path(name)
        questions = folder / "questions.jsonl"
        questions.write_text(
            "\n".join(
                f'{{"question": "What is {i} plus {i + 3}?", "answer": "#### {2 * i + 3}"}}'
                for i in range(options.trees)
            )
        )
        (folder / "alone").mkdir()
        if start(folder / "alone", questions).wait():
            raise SystemExit((folder / "alone" / "log").read_text())
        alone = rows(folder / "alone" / "forest")
        end = started + 60 * options.minutes
        while done.total() < options.kills and time.monotonic() < end:
            trial = Trial(folder / str(forests), questions, dice, options.pause)
            try:
                trial.run(kinds, options.kills - done.total())
            finally:
                if trial.driver is not None and trial.driver.poll() is None:
                    trial.driver.kill()
                left += trial.bury()
            forests += 1
            done += Counter(fate.kind for fate in trial.fates)
            differ += rows(trial.forest) != alone
            needed, why = trial.again()
            tokens += needed
            again += why
            print(
                f"forest {forests}: {len(trial.fates)} kills, {why.total() / needed:.1%} again, "
                f"{differ} differ so far, {time.monotonic() - started:.0f} s",
                flush=True,
            )
    print(f"\n{'':16} {'kills':>5} {'tokens again':>12} {'share':>7} {'a kill':>7}")
    for kind in [*KINDS, *(again.keys() - KINDS.keys())]:
        each = again[kind] / max(1, done[kind])
        print(f"{kind:16} {done[kind]:5} {again[kind]:12} {again[kind] / tokens:7.2%} {each:7.0f}")
    print(f"{'all':16} {done.total():5} {again.total():12} {again.total() / tokens:7.2%}")
    drivers = again["driver killed"]
    print(f"without the kills of the driver: {(again.total() - drivers) / tokens:.2%}")
    print(f"{forests} forests of {len(alone)} nodes, {differ} differ")
    print(f"processes left over: {left['running']}, and {left['stopped']} that are stopped")
    raise SystemExit(differ or left.total())


if __name__ == "__main__":
    main()
