"""Worker processes for computer algebra, which may hang, exhaust memory or ignore signals.

A thread cannot be stopped and SIGALRM works only on a main thread, so each comparison runs on the
main thread of a process of its own, which the parent kills at a wall-clock limit and replaces.

    pool = Pool(limit_s=5.0)
    pool.equal("x^2-1", "(x-1)(x+1)")         # True; None says that the worker ran out of time
    pool.close()

A worker is a plain `python -c` subprocess that speaks JSON lines: unlike `multiprocessing` it is
safe to start from a thread of an asyncio program, and it does not run the caller's `__main__`
again. It ends with its parent even where the parent is killed: at end of file when idle, and by
the kernel's own timer when busy.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import IO

START_S = 60.0  # importing sympy on a loaded machine; never counted against an answer
MEMORY_BYTES = 2 * 1024**3
_GRACE_S = 5.0  # how long an orphan may outlive its parent's limit
_COMMAND = "from malt_data.graders.pool import serve; serve()"
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


class Pool:
    """Compares mathematical answers in worker processes; safe to share between threads."""

    def __init__(self, limit_s: float, workers: int = 1) -> None:
        self.limit_s = limit_s
        self._free = threading.BoundedSemaphore(workers)
        self._lock = threading.Lock()
        self._closed = False
        self._idle: list[_Worker] = []
        self._alive: set[_Worker] = set()
        self._finalizer = weakref.finalize(self, _stop_all, self._alive)

    def equal(self, answer: str, gold: str) -> bool | None:
        """Say whether two answers are equal; None where time or memory ran out.

        Waits for a free worker first. Raises RuntimeError after `close`.
        """
        with self._free:
            worker = self._take()
            verdict = worker.ask(answer, gold, self.limit_s)
            with self._lock:
                if verdict is None or self._closed:
                    worker.stop()
                    self._alive.discard(worker)
                else:
                    self._idle.append(worker)
        return verdict

    def close(self) -> None:
        """Kill all workers, also those that are busy: their callers get None.

        A busy one's pipes are left to its caller, who is reading them: a descriptor closed by
        another thread leaves the reader asleep, or reading what was opened under its number next.
        """
        with self._lock:
            self._closed = True
            for worker in self._alive:
                worker.kill()
            _stop_all(self._idle)
            self._alive.clear()

    def pids(self) -> list[int]:
        """Return the process ids of the living workers."""
        with self._lock:
            return [worker.process.pid for worker in self._alive]

    def _take(self) -> "_Worker":
        with self._lock:
            if self._closed:
                raise RuntimeError("this grader is closed: open a new one")
            while self._idle:
                worker = self._idle.pop()
                if worker.process.poll() is None:
                    return worker
                worker.stop()
                self._alive.discard(worker)
            worker = _Worker()
            self._alive.add(worker)
            return worker


def _stop_all(workers: "set[_Worker] | list[_Worker]") -> None:
    while workers:
        workers.pop().stop()


class _Worker:
    """One worker process, seen from the parent."""

    def __init__(self) -> None:
        paths = [_PACKAGE_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C in the terminal is for the parent to handle
        )
        self._ready = False

    def ask(self, answer: str, gold: str, limit_s: float) -> bool | None:
        """Return the worker's reply, or None where it gave none in time or died."""
        if not self._ready and self._receive(START_S) is None:
            return None
        self._ready = True
        request = json.dumps([answer, gold, limit_s + _GRACE_S]) + "\n"
        try:
            _pipe(self.process.stdin).write(request.encode())
            _pipe(self.process.stdin).flush()
        except OSError:  # it died
            return None
        reply = self._receive(limit_s)
        return None if reply is None else reply == b"1\n"

    def kill(self) -> None:
        """Kill the process and reap it; whoever reads from it finds the pipe's end."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Kill the process and close its pipes, which nobody may be using."""
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                _pipe(pipe).close()

    def _receive(self, limit_s: float) -> bytes | None:
        """Return one line from the worker, or None at the limit or the end of the pipe."""
        deadline = time.monotonic() + limit_s
        received = b""
        with selectors.DefaultSelector() as selector:
            out = _pipe(self.process.stdout).fileno()
            selector.register(out, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return None
                chunk = os.read(out, 64)
                if not chunk:
                    return None
                received += chunk
        return received


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise ValueError("the worker has no such pipe")
    return pipe


# --- inside the worker -------------------------------------------------------------------------


def serve() -> None:
    """Answer requests on stdin until it ends. Runs in the worker process only."""
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # its default action needs no interpreter
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not be read as a reply
    from malt_data.graders import math

    math.equal("x+x", "2x")  # pays for the imports before the first clock starts
    os.write(out, b"ready\n")
    for line in sys.stdin.buffer:
        answer, gold, alarm_s = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, alarm_s)
        try:
            equal = math.equal(answer, gold)
        except MemoryError:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(out, b"1\n" if equal else b"0\n")
