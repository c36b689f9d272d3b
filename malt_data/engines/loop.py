"""Running a coroutine to its end from plain code, in a notebook too.

    report = run_sync(build())

The cells of a notebook run inside an event loop, where `asyncio.run` refuses to start another.

Meanwhile Python looks for garbage in cycles less often: with 1,024 requests in flight, every look
walks through all they hold, which took a fifth of the time (benchmarks/transport.py).
"""

import asyncio
import contextlib
import gc
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_Running = tuple[asyncio.AbstractEventLoop, "asyncio.Task[Any] | None"]
_COLLECT_AFTER = (20_000, 20, 20)
"""For `gc.set_threshold`; Python's own are 700 or 2,000, 10 and 10."""


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns, as `asyncio.run` does; inside a loop, run it on a thread.

    Ctrl-C cancels it in both cases: what it had finished is kept, and it may still return.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with _collecting_less():
            return asyncio.run(work)
    with _collecting_less():
        return _run_beside(work)


@contextlib.contextmanager
def _collecting_less() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*_COLLECT_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _run_beside(work: Coroutine[Any, Any, T]) -> T:
    started: Future[_Running] = Future()

    async def main() -> T:
        started.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await work

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(lambda: asyncio.run(main()))
        try:
            return done.result()
        except KeyboardInterrupt:
            loop, task = started.result()
            with contextlib.suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(task.cancel if task else loop.stop)
            try:
                return done.result()
            except asyncio.CancelledError:
                raise KeyboardInterrupt from None
