"""Inside a worker process of `pool.py`: load one function, and answer calls of it as JSON lines.

    {"id": 7, "arguments": ["x^2-1", "(x-1)(x+1)"]}      in
    {"id": 7, "reward": 1.0}                             out; or {"id": 7, "error": "raised …"}

The function may be anybody's. What it prints goes nowhere, since the replies have a descriptor of
their own; what it replaces in a module does not reach the replies, since their encoder is bound
before the function is loaded; and a child that it forks does not answer in its place.
"""

import asyncio
import contextlib
import importlib
import importlib.util
import inspect
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

IN_FLIGHT = 16
"""Calls of an `async` function that one worker runs at once."""
_ERROR_CHARS = 300
_LINE_BYTES = 2**28

_decode = json.JSONDecoder().decode
_encode = json.JSONEncoder().encode
_exit, _pid_of = os._exit, os.getpid


def serve(target: str, limit_s: float, memory: int, lifeline: int) -> None:
    """Serve calls until stdin is closed. lifeline: a pipe that closes when the parent dies."""
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    _guard(lifeline, (requests, replies))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    send = _sender(replies)
    try:
        function = load(target)
    except BaseException as error:  # noqa: BLE001 - anybody's module may raise anything
        send({"unusable": describe(error)})
        return
    if inspect.iscoroutinefunction(function):
        send({"ready": IN_FLIGHT})
        asyncio.run(_serve_async(function, requests, send, limit_s))
        return
    send({"ready": 1})
    for line in requests:
        call = _decode(line.decode())
        try:
            reply: dict[str, Any] = {"reward": reward_of(function(*call["arguments"]))}
        except BaseException as error:  # noqa: BLE001
            reply = {"error": describe(error)}
        send({"id": call["id"], **reply})


async def _serve_async(
    function: Callable[..., Awaitable[Any]],
    requests: BinaryIO,
    send: Callable[[dict[str, Any]], None],
    limit_s: float,
) -> None:
    async def answer(call: dict[str, Any]) -> None:
        try:
            value = await asyncio.wait_for(function(*call["arguments"]), limit_s)
            reply: dict[str, Any] = {"reward": reward_of(value)}
        except BaseException as error:  # noqa: BLE001
            reply = {"error": describe(error)}
        send({"id": call["id"], **reply})

    reader, tasks = asyncio.StreamReader(_LINE_BYTES), set()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), requests)
    while line := await reader.readline():
        task = asyncio.create_task(answer(_decode(line.decode())))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


def _sender(replies: BinaryIO) -> Callable[[dict[str, Any]], None]:
    worker = _pid_of()

    def send(reply: dict[str, Any]) -> None:
        if _pid_of() != worker:
            _exit(0)  # a child that the function forked
        data = _encode(reply).encode() + b"\n"
        while data:
            data = data[replies.write(data) :]

    return send


def _guard(lifeline: int, ours: tuple[BinaryIO, ...]) -> None:
    """Fork a process that kills the whole group, children included, once the parent is gone.

    The worker cannot do so itself: it may be inside a library that never returns to Python.
    """
    if os.fork():
        os.close(lifeline)
        return
    for pipe in ours:
        os.close(pipe.fileno())
    _outlive(lifeline)


def _outlive(lifeline: int) -> NoReturn:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(lifeline, 1):
        pass
    with contextlib.suppress(OSError):
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def load(target: str) -> Callable[..., Any]:
    """Import `FILE.py:function` or `MODULE:function`.

    The folder of the file, or the working folder, is searched last, so that a file in it cannot
    stand in for a module of Python's.
    """
    where, _, name = target.rpartition(":")
    if where.endswith(".py"):
        path = Path(where).resolve()
        sys.path.append(str(path.parent))
        spec = importlib.util.spec_from_file_location(f"malt_grader_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{where} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses and pickle look there
        spec.loader.exec_module(module)
    else:
        sys.path.append(str(Path.cwd()))
        module = importlib.import_module(where)
    function = getattr(module, name)
    if not callable(function):
        raise TypeError(f"{name} is not a function")
    return function  # type: ignore[no-any-return]


def reward_of(value: Any) -> float | None:
    """Return a verdict as a reward in [0, 1], None: undecided; raise ValueError otherwise."""
    if value is None:
        return None
    if not isinstance(value, str) and hasattr(type(value), "__float__"):
        reward = float(value)
        if 0 <= reward <= 1:
            return reward
    shown = repr(value)
    raise _Invalid(shown if len(shown) <= 80 else shown[:80] + "…")


class _Invalid(ValueError):
    """Not a reward."""


def describe(error: BaseException) -> str:
    """Return what went wrong as the end of a sentence that starts with the function's name."""
    try:
        words = " ".join(str(error).split())
    except BaseException:  # noqa: BLE001
        words = ""
    words = words.encode("utf-8", "replace").decode()[:_ERROR_CHARS].rstrip(".")
    if isinstance(error, _Invalid):
        return f"returned {words}, not a number from 0 to 1, a bool or None"
    if isinstance(error, TimeoutError) and not words:
        return "ran out of time"
    return f"raised {type(error).__name__}" + (f": {words}" if words else "")
