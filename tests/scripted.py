"""An engine that follows a script, for replicas: real processes, no model.

It answers by the prompt and the seed alone, and writes a line into a file for each sample that it
begins, so that what was sampled twice can be counted. As a script it is malt-data with this engine:

    python tests/scripted.py FOLDER SECONDS SILENCE build --replicas 2
"""

import asyncio
import hashlib
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
                completion = answer(text, seed)
                tokens = completion.completion_tokens
                self._log.write(f"{request.tree} {seed} {tokens} {time.time():.3f}\n")
                await asyncio.sleep(self.script.seconds * (0.5 + seed % 10 / 10))
                yield sample, completion

    async def close(self) -> None:
        self._log.close()


def answer(prompt: str, seed: int) -> Completion:
    """Answer right or wrong by a die."""
    die = hashlib.sha256(f"{prompt} {seed}".encode()).digest()[0]
    a, b = map(int, re.findall(r"(\d+) plus (\d+)", prompt)[0])
    return Completion(f"{die}.\nFinal Answer: {a + b + die % 2}", "stop", 10, 3 + die % 7, seed)


def samples(folder: Path) -> list[str]:
    """Return a line for each sample that any replica began: its tree, seed, tokens and time."""
    return [line for path in folder.glob("samples-*") for line in path.read_text().splitlines()]


def replicas(folder: Path) -> list[int]:
    """Return the process ids of the replicas that have opened their engine and live."""
    pids = [int(path.name) for path in (folder / "replicas").glob("*")]
    return sorted(pid for pid in pids if _lives(pid))


def state(pid: int) -> str:
    """Return the state of a process as Linux calls it, X if there is none: T is stopped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "X"
    return stat.rpartition(")")[2].split()[0]


def _lives(pid: int) -> bool:
    return state(pid) not in "ZX"


def main() -> None:
    """Run the command line with scripted engines, in replicas or alone."""
    from scripted import Script  # by a name that a replica can import; here it is __main__

    from malt_data.cli import main
    from malt_data.engines import opening
    from malt_data.engines.replicas import Replicas

    folder, seconds, silence, *arguments = sys.argv[1:]
    script = Script(Path(folder), float(seconds))
    in_replicas = Replicas.open

    async def alone(spec: object, adapters: object, note: Callable[[str], None]) -> Any:
        return await script(note)

    async def replicated(_: object, **options: Any) -> Replicas:
        return await in_replicas(script, **options, silence=float(silence))

    opening.ENGINES["transformers"] = opening._Opener(alone, "m")
    Replicas.open = replicated  # type: ignore[method-assign, assignment]
    main(arguments, prog_name="malt-data")


if __name__ == "__main__":
    main()
