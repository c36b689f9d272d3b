"""Worker processes for computer algebra, which may hang, exhaust memory or ignore signals.

A thread cannot be stopped, and SIGALRM only works in a main thread. So each comparison runs in a
separate process, which the parent kills and replaces when a wall-clock limit is reached.

    pool = Pool(limit_s=5.0)
    pool.equal("x^2-1", "(x-1)(x+1)")         # True; None if the worker ran out of time
    pool.close()

A worker is a plain `python -c` subprocess that speaks JSON lines: unlike `multiprocessing` it is
safe to start from a thread of an asyncio program, and it does not import the caller's `__main__`.
It ends with its parent even if the parent is killed: by end of file when idle, by a kernel timer
when busy.
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

START_S = 60.0  # to import sympy on a busy machine; does not count towards the limit
MEMORY_BYTES = 2 * 1024**3
_GRACE_S = 5.0  # how long an orphan may outlive its parent's limit
_COMMAND = "from malt_data.graders.pool import serve; serve()"
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


class Pool:
    """Compares mathematical answers in worker processes; safe to share between threads."""

    def __init__(self, limit_s: float, workers: int = 1) -> None:
        self.limit_s = limit_s
        self._slots = threading.BoundedSemaphore(workers)
        self._lock = threading.Lock()
        self._closed = False
        self._idle: list[_Worker] = []
        self._alive: set[_Worker] = set()
        self._finalizer = weakref.finalize(self, _stop_all, self._alive)

    def equal(self, answer: str, gold: str) -> bool | None:
        """Return whether two answers are equal, None if time or memory ran out.

        Waits for a free worker first. Raises RuntimeError after `close`.
        """
        with self._slots:
            worker = self._get_worker()
            verdict = worker.ask(answer, gold, self.limit_s)
            with self._lock:
                if verdict is None or self._closed:
                    worker.stop()
                    self._alive.discard(worker)
                else:
                    self._idle.append(worker)
        return verdict

    def close(self) -> None:
        """Kill all workers, including busy ones, whose callers get None.

        The pipes of a busy worker are closed by the thread that reads from them: if another thread
        closed a descriptor, the reader could hang, or read from a new file with the same number.
        """
        with self._lock:
            self._closed = True
            for worker in self._alive:
                worker.kill()
            _stop_all(self._idle)
            self._alive.clear()

    def pids(self) -> list[int]:
        """Return the process ids of the running workers."""
        with self._lock:
            return [worker.process.pid for worker in self._alive]

    def _get_worker(self) -> "_Worker":
        with self._lock:
            if self._closed:
                raise RuntimeError("this grader is closed; open a new one")
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
            start_new_session=True,  # so that only the parent receives Ctrl-C
        )
        self._ready = False

    def ask(self, answer: str, gold: str, limit_s: float) -> bool | None:
        """Return the worker's reply, or None if it died or did not reply in time."""
        if not self._ready and self._receive(START_S) is None:
            return None
        self._ready = True
        request = json.dumps([answer, gold, limit_s + _GRACE_S]) + "\n"
        try:
            _pipe(self.process.stdin).write(request.encode())
            _pipe(self.process.stdin).flush()
        except OSError:  # the worker died
            return None
        reply = self._receive(limit_s)
        return None if reply is None else reply == b"1\n"

    def kill(self) -> None:
        """Kill the process and reap it; a reader sees the end of the pipe."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Kill the process and close its pipes, which must not be in use."""
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                _pipe(pipe).close()

    def _receive(self, limit_s: float) -> bytes | None:
        """Return one line from the worker, or None on timeout or at the end of the pipe."""
        deadline = time.monotonic() + limit_s
        received = b""
        with selectors.DefaultSelector() as selector:
            out = _pipe(self.process.stdout).fileno()
            selector.register(out, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not selector.select(remaining):
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
    """Serve requests on stdin until it is closed. Runs only in the worker process."""
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default action works even if Python is busy
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.dup(1)
    os.dup2(2, 1)  # keep output of libraries out of the replies
    from malt_data.graders import math

    math.equal("x+x", "2x")  # imports everything before the first timer starts
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
