"""An engine that follows a script, for replicas: real processes, no model.

It answers by the prompt and the seed alone, and writes a line into a file for each sample, so that
a test can count what was sampled twice.
"""

import asyncio
import hashlib
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from malt_data.engines import Completion, Gate, Request
from malt_data.errors import EngineDown, EngineError


@dataclass(frozen=True)
class Script:
    """Opens the engine. folder: where its files are. seconds: of a sample, about.

    faults: what happens to the prompts that contain a word: `error`, `down`, `bug`, `die`.
    """

    folder: Path
    seconds: float = 0.0
    width: int = 8
    faults: tuple[tuple[str, str], ...] = ()
    opening: str = ""

    async def __call__(self, note: Callable[[str], None]) -> "Scripted":
        if self.opening == "down":
            raise EngineDown("no such model")
        if self.opening == "bug":
            raise KeyError("layer 7")
        (self.folder / "replicas").mkdir(exist_ok=True)
        (self.folder / "replicas" / str(os.getpid())).touch()
        return Scripted(self)


class Scripted:
    """See the module."""

    model = "m"

    def __init__(self, script: Script) -> None:
        self.script = script
        self.gate = Gate(script.width)
        self._log = (script.folder / f"samples-{os.getpid()}").open("a", buffering=1)

    async def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        text = str(request.prompt)
        fault = next((how for word, how in self.script.faults if word in text), "")
        if fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault:
            kinds = {"error": EngineError, "down": EngineDown, "bug": KeyError}
            raise kinds[fault]("scripted")
        for sample, seed in enumerate(request.seeds):
            async with self.gate.slot(request.priority):
                await asyncio.sleep(self.script.seconds * (0.5 + seed % 10 / 10))
                self._log.write(f"{request.tree} {seed}\n")
                yield sample, answer(text, seed)

    async def close(self) -> None:
        self._log.close()


def answer(prompt: str, seed: int) -> Completion:
    """Answer right or wrong by a die."""
    die = hashlib.sha256(f"{prompt} {seed}".encode()).digest()[0]
    a, b = map(int, re.findall(r"(\d+) plus (\d+)", prompt)[0])
    return Completion(f"{die}.\nFinal Answer: {a + b + die % 2}", "stop", 10, 3 + die % 7, seed)


def samples(folder: Path) -> list[str]:
    """Return a line for each sample that any replica made."""
    return [line for path in folder.glob("samples-*") for line in path.read_text().splitlines()]


def replicas(folder: Path) -> list[int]:
    """Return the process ids of the replicas that have opened their engine and live."""
    pids = [int(path.name) for path in (folder / "replicas").glob("*")]
    return sorted(pid for pid in pids if _lives(pid))


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
