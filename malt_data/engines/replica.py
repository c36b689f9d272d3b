"""One replica: an engine in a process of its own, which takes requests and returns samples.

It knows nothing of trees, of other replicas, or of Ray, whose actor it becomes in `cluster.py`.
Calls carry batches, because a call costs the driver more than a request: `submit` takes whatever
has gathered there, and `take` waits for something to report and then a moment for more. Whatever
happens is an event, errors too: an exception that Ray passes on arrives as another one.

    replica = Replica(partial(open_engine, spec, adapters), "/home/me/project")
    await replica.start()
    await replica.submit([(0, request)], [])
    await replica.take(heartbeat=5, gather=0.05)   # [Ready(…)], then [Sampled(0, 2, …), …]
"""

import asyncio
import ctypes
import os
import signal
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from malt_data import __version__
from malt_data.engines import Completion, Engine, Request
from malt_data.errors import EngineDown, EngineError, MaltError

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h

Open = Callable[[Callable[[str], None]], Awaitable[Engine]]
"""Opens the engine of a replica, there; it is given a function for notes, and must be picklable."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine is open. width: how many samples it runs at once."""

    model: str
    width: int


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong: with one request, with the engine, or an exception that nobody foresaw."""

    text: str
    of: Literal["request", "engine", "code"]


@dataclass(frozen=True, slots=True)
class Sampled:
    """A sample of request `number`; `sample` is the index of its seed in what was submitted."""

    number: int
    sample: int
    completion: Completion


@dataclass(frozen=True, slots=True)
class Ended:
    """Request `number` has ended; failure: why it lacks samples."""

    number: int
    failure: Failure | None = None


Event = Ready | Failure | Sampled | Ended | str
"""What a replica reports. A Failure of its own: the engine could not be opened. A str: a note."""


class Replica:
    """See the module. All methods run on one event loop."""

    def __init__(self, open: Open, folder: str, sharing: int | None = None) -> None:
        """folder: where the driver runs, so that relative paths mean the same here.

        sharing: how many replicas share the cores of this machine; None leaves the threads alone.
        """
        self._open, self._folder = open, folder
        if sharing is not None:  # Ray allows one thread where an actor asks for no CPUs
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
            threads = (cores or os.cpu_count() or 1) // sharing
            os.environ["OMP_NUM_THREADS"] = str(max(1, threads))
        self._engine: Engine | None = None
        self._events: list[Event] = []
        self._news = asyncio.Event()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._opening: asyncio.Task[None] | None = None

    async def hello(self) -> tuple[str, str, int]:
        """Return the version of malt-data, the name of the machine and the process id."""
        return __version__, socket.gethostname(), os.getpid()

    async def start(self) -> None:
        """Begin to open the engine; the outcome is an event."""
        _die_with_parent()
        if Path(self._folder).is_dir():  # another machine may not have it
            os.chdir(self._folder)
        self._opening = asyncio.create_task(self._start())

    async def submit(
        self, requests: Sequence[tuple[int, Request]], withdrawn: Sequence[int]
    ) -> None:
        """Begin to sample requests, each with a number of its own; abort those withdrawn."""
        for number, request in requests:
            task = asyncio.create_task(self._sample(number, request))
            self._tasks[number] = task
            task.add_done_callback(partial(self._forget, number))
        for number in withdrawn:
            if number in self._tasks:
                self._tasks[number].cancel()

    async def take(self, heartbeat: float, gather: float) -> list[Event]:
        """Wait for events for at most `heartbeat` seconds, then `gather` seconds for more."""
        if not self._events:
            with suppress(TimeoutError):
                async with asyncio.timeout(heartbeat):
                    await self._news.wait()
                    await asyncio.sleep(gather)
        self._news.clear()
        events, self._events = self._events, []
        return events

    async def stop(self) -> None:
        """Abort all requests and close the engine."""
        tasks = [*self._tasks.values(), *([self._opening] if self._opening else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._engine is not None:
            await self._engine.close()

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()

        def note(text: str) -> None:  # called on threads too
            loop.call_soon_threadsafe(self._report, text)

        try:
            self._engine = await self._open(note)
        except Exception as error:  # noqa: BLE001 - passed on to the driver
            self._report(_failure(error, MaltError))
        else:
            self._report(Ready(self._engine.model, self._engine.gate.width))

    async def _sample(self, number: int, request: Request) -> None:
        assert self._engine is not None, "requests before Ready"
        ended = Ended(number)
        try:
            samples = self._engine.complete(request)
            async with aclosing(samples):  # type: ignore[type-var]
                async for sample, completion in samples:
                    self._report(Sampled(number, sample, completion))
        except Exception as error:  # noqa: BLE001 - passed on to the driver
            ended = Ended(number, _failure(error, EngineDown))
        self._report(ended)

    def _forget(self, number: int, _: object) -> None:
        self._tasks.pop(number, None)

    def _report(self, event: Event) -> None:
        self._events.append(event)
        self._news.set()


def _die_with_parent() -> None:
    """Let Linux kill this process when Ray's daemon dies, which one that is stopped never learns.

    It holds as long as the thread that asks for it lives.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _failure(error: Exception, of_engine: type[MaltError]) -> Failure:
    """Return an error as a value. of_engine: the errors after which the engine is of no use."""
    if isinstance(error, of_engine):
        return Failure(str(error), "engine")
    if isinstance(error, EngineError):
        return Failure(str(error), "request")
    return Failure("".join(traceback.format_exception(error)), "code")
