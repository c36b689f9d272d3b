"""Running a coroutine to its end from plain code, in a notebook too.

    report = run_sync(build())

The cells of a notebook run inside an event loop, where `asyncio.run` refuses to start another.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_Running = tuple[asyncio.AbstractEventLoop, "asyncio.Task[Any] | None"]


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns, as `asyncio.run` does; inside a loop, run it on a thread.

    Ctrl-C cancels it in both cases: what it had finished is kept, and it may still return.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    return _run_beside(work)


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
