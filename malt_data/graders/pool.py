"""Call a function in worker processes, since it may hang, crash, flood or exhaust memory.

A thread cannot be stopped, and SIGALRM only works in a main thread. So each call runs in a separate
process, which the parent kills, with its children, and replaces when a wall-clock limit is reached.

    pool = Pool("malt_data.graders.math:equal", limit_s=5.0)
    pool.call("x^2-1", "(x-1)(x+1)")          # Reply(reward=1.0)
    pool.close()

A worker (`worker.py`) is a plain `python -c` subprocess that speaks JSON lines: unlike
`multiprocessing` it is safe to start from a thread of an asyncio program, and it does not import
the caller's `__main__`. It ends with its parent even if the parent is killed.

A pool's workers are driven by an event loop on a thread of its own, so that callers may be threads
or other loops. An `async` function gets many calls at once; when its worker dies, each of them is
tried again alone, so that only the one to blame has no reward.
"""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from malt_data.graders.worker import IN_FLIGHT, reward_of

START_S = 60.0  # to import sympy on a busy machine; does not count towards the limit
MEMORY_BYTES = 2 * 1024**3
_GRACE_S = 2.0  # in which an `async` function's worker reports its own timeouts
_POLL_S = 0.25
_LINE_BYTES = 2**16
_COMMAND = (
    "import sys; from malt_data.graders.worker import serve; target, *numbers = sys.argv[1:]; "
    "serve(target, float(numbers[0]), int(numbers[1]), int(numbers[2]))"
)
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


@dataclass(frozen=True)
class Reply:
    """The outcome of one call. reward: 0 to 1, or None if the function could not decide."""

    reward: float | None = None
    error: str | None = None
    """What the function did instead: `raised ValueError: …`, `ran out of time`, …"""
    unusable: bool = False
    """Whether the function could not even be loaded."""


_DIED = Reply(error="ended its process or used up its memory")
_LATE = Reply(error="ran out of time")
_CLOSED = Reply(error="was stopped")


class Pool:
    """Calls one function, `FILE.py:function` or `MODULE:function`; may be shared by threads."""

    def __init__(
        self,
        target: str,
        limit_s: float,
        workers: int = 1,
        *,
        memory: int = MEMORY_BYTES,
        warm_up: tuple[Any, ...] | None = None,
    ) -> None:
        """limit_s: of one call. warm_up: arguments of a first call, without this limit, that makes
        the function import what it needs."""
        self._start: Callable[[], _Worker] = lambda: _Worker(target, limit_s, memory)
        self._limit_s, self._workers, self._warm_up = limit_s, workers, warm_up
        self._lock = threading.Lock()
        self._closed = False
        self._alive: set[_Worker] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: set[Future[Reply]] = set()

    def submit(self, *arguments: Any) -> "Future[Reply]":
        """Call the function with JSON values; return at once. Raises RuntimeError after `close`."""
        return self._run(lambda: self._call(arguments))

    def call(self, *arguments: Any) -> Reply:
        """Return the reply of one call; wait for a free worker first."""
        return self.submit(*arguments).result()

    def load(self) -> Reply | None:
        """Start a worker; return why the function cannot be used, None if it can."""
        reply = self._run(self._try).result()
        return None if reply == Reply() else reply

    def close(self) -> None:
        """Kill all workers, including busy ones, whose callers get an error."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._loop is None:
                return
            asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        self._thread.join()
        for call in list(self._calls):
            self._finish(call, None)

    def pids(self) -> list[int]:
        """Return the process ids of the running workers."""
        return [worker.process.pid for worker in list(self._alive)]

    # --- on the pool's own thread ---------------------------------------------------------------

    def _begin(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        self._seats: asyncio.LifoQueue[_Slot] = asyncio.LifoQueue()  # a started worker comes first
        for _ in range(self._workers):
            self._seats.put_nowait(_Slot())
        self._suspects = asyncio.Semaphore(self._workers)
        alive = self._alive
        self._thread = threading.Thread(target=_drive, args=(loop, alive), daemon=True)
        self._thread.start()
        weakref.finalize(self, _stop, loop)
        return loop

    def _run(self, work: Callable[[], Coroutine[Any, Any, Reply]]) -> "Future[Reply]":
        with self._lock:
            if self._closed:
                raise RuntimeError("this grader is closed; open a new one")
            if self._loop is None:
                self._loop = self._begin()
            outer: Future[Reply] = Future()
            outer.set_running_or_notify_cancel()  # from here on, it can only be finished
            self._calls.add(outer)
            inner = asyncio.run_coroutine_threadsafe(work(), self._loop)
        inner.add_done_callback(lambda done: self._finish(outer, done))
        return outer

    async def _end(self) -> None:
        asyncio.get_running_loop().stop()

    def _finish(self, outer: "Future[Reply]", done: "Future[Reply] | None") -> None:
        with self._lock:
            if outer not in self._calls:
                return
            self._calls.discard(outer)
        if done is None or done.cancelled():
            outer.set_result(_CLOSED)
        elif error := done.exception():
            outer.set_exception(error)
        else:
            outer.set_result(done.result())

    async def _try(self) -> Reply:
        slot = await self._seats.get()
        try:
            return (await self._worker_of(slot)).unusable or Reply()
        finally:
            self._seats.put_nowait(slot)

    async def _call(self, arguments: tuple[Any, ...]) -> Reply:
        slot = await self._seats.get()
        try:
            worker = await self._worker_of(slot)
            if worker.unusable is not None:
                return worker.unusable
            reply = await worker.ask(arguments, self._limit_s)
        finally:
            self._seats.put_nowait(slot)
        if worker.dead:
            self._discard(worker)
        if reply is _DIED or (reply is _LATE and worker.seats > 1):
            return await self._alone(arguments)
        return reply

    async def _alone(self, arguments: tuple[Any, ...]) -> Reply:
        """Call the function in a fresh worker, where no other call can be to blame."""
        async with self._suspects:
            slot = _Slot()
            worker = await self._worker_of(slot)
            try:
                return worker.unusable or await worker.ask(arguments, self._limit_s)
            finally:
                self._discard(worker)

    async def _worker_of(self, slot: "_Slot") -> "_Worker":
        async with slot.lock:
            if slot.worker is None or slot.worker.dead or slot.worker.process.poll() is not None:
                if slot.worker is not None:
                    self._discard(slot.worker)
                slot.worker = worker = self._start()
                self._alive.add(worker)
                await worker.begin(self._warm_up)
                if worker.seats > 1 and not slot.shared:
                    slot.shared = True
                    for _ in range(worker.seats - 1):
                        self._seats.put_nowait(slot)
            return slot.worker

    def _discard(self, worker: "_Worker") -> None:
        worker.stop()
        self._alive.discard(worker)


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    with contextlib.suppress(RuntimeError):  # it is closed
        loop.call_soon_threadsafe(loop.stop)


class _Slot:
    """A place for a worker; it is in the queue of free seats once for each call it can take."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.worker: _Worker | None = None
        self.shared = False


def _drive(loop: asyncio.AbstractEventLoop, alive: "set[_Worker]") -> None:
    """Run the loop until it is stopped, then kill what is left."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        for worker in list(alive):
            worker.stop()
        alive.clear()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(asyncio.sleep(0))  # lets transports close their pipes
        loop.close()


class _Worker:
    """One worker process, seen from the parent."""

    def __init__(self, target: str, limit_s: float, memory: int) -> None:
        paths = [_PACKAGE_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        guarded, self._lifeline = os.pipe()
        arguments = [target, str(limit_s), str(memory), str(guarded)]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _COMMAND, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            pass_fds=[guarded],
            start_new_session=True,  # so that only the parent receives Ctrl-C
        )
        os.close(guarded)
        self.seats = 1
        """Calls that it takes at once."""
        self.unusable: Reply | None = None
        self.dead = False
        self._numbers = itertools.count()
        self._pending: dict[Any, asyncio.Future[Reply]] = {}
        self._transports: list[asyncio.BaseTransport] = []

    async def begin(self, warm_up: tuple[Any, ...] | None) -> None:
        """Wait until the function is loaded; `unusable` says why it could not be."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(_LINE_BYTES)
        out, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), _pipe(self.process.stdout)
        )
        into, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin,
            _pipe(self.process.stdin),
        )
        self._transports = [out, into]
        self._stdin = asyncio.StreamWriter(into, protocol, None, loop)
        self._ready: asyncio.Future[Reply] = loop.create_future()
        self._reading = asyncio.create_task(self._read(reader))
        reply = await self._wait(self._ready, START_S)
        if reply is not None:
            self.kill()
            reason = reply.error or ""
            self.unusable = Reply(error=reason, unusable=True)
        elif warm_up is not None:
            await self.ask(warm_up, START_S)

    async def ask(self, arguments: tuple[Any, ...], limit_s: float) -> Reply:
        """Return the reply, `_DIED` or `_LATE`; in these two cases the worker is dead."""
        if self.dead:
            return _DIED
        number = next(self._numbers)
        self._pending[number] = answer = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": number, "arguments": arguments}) + "\n"
        try:
            self._stdin.write(line.encode())  # not drained: a worker that does not read is late
            reply = await self._wait(answer, limit_s + (_GRACE_S if self.seats > 1 else 0))
        finally:
            self._pending.pop(number, None)
        return reply or _LATE

    async def _wait(self, future: "asyncio.Future[Reply]", limit_s: float) -> Reply | None:
        """Wait for a reply; kill the worker if it is late, or has ended but left a child.

        Such a child keeps the pipe open, so that the end of the worker cannot be read from it.
        """
        deadline = time.monotonic() + limit_s
        while not future.done():
            left = deadline - time.monotonic()
            if left <= 0:
                self.kill(_LATE)
                break
            await asyncio.wait({future}, timeout=min(left, _POLL_S))
            if not future.done() and self.process.poll() is not None:
                await asyncio.wait({future}, timeout=_POLL_S)  # what it wrote before it ended
                self.kill()
                break
        return await future

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Hand each line to the call that waits for it; anything but a reply ends the worker."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            while line := await reader.readline():
                message = json.loads(line)
                error = message.get("error")
                if "ready" in message:
                    if self._ready.done() or message["ready"] not in (1, IN_FLIGHT):
                        raise ValueError("written by the function")
                    self.seats = message["ready"]
                    self._set(self._ready, None)
                elif "unusable" in message:
                    self._set(self._ready, Reply(error=str(message["unusable"])))
                else:
                    reply = Reply(reward_of(message.get("reward")), error and str(error))
                    self._set(self._pending[message["id"]], reply)
        self.kill()

    def _set(self, future: "asyncio.Future[Any]", reply: Reply | None) -> None:
        if not future.done():
            future.set_result(reply)

    def kill(self, reply: Reply = _DIED) -> None:
        """Kill the process and its children; calls that wait for it get `reply`."""
        self.dead = True
        with contextlib.suppress(ProcessLookupError):  # its group outlives it: `worker._guard`
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if hasattr(self, "_ready"):
            self._set(self._ready, reply)
        for future in self._pending.values():
            self._set(future, reply)

    def stop(self) -> None:
        """Kill the process, and close its pipes."""
        self.kill()
        for transport in self._transports:
            if isinstance(transport, asyncio.WriteTransport) and not transport.is_closing():
                transport.abort()  # does not wait for a reader of what is left to write
            transport.close()
        self._transports = []
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise ValueError("the worker has no such pipe")
    return pipe
