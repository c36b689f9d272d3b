"""A small real HTTP server that speaks /v1/chat/completions and /v1/models, and misbehaves.

It runs in a thread of the test process on a free loopback port, keeps connections alive, and
fails as it is told to, so that tests meet real sockets and no mock.

    with OpenAIServer(answer=lambda messages, seed, sample: "42", fail_every=5) as server:
        engine = OpenAIEngine("test-model", base_url=server.base_url)
        ...
    assert server.requests[0].body["n"] == 3

A fault is a name or a status: "close" (reset before the response), "cut" (connection closed in
the middle of it), "hang" (no response until the server stops), "garbage" (200 that is no JSON),
"empty" (no choices), "no-message" (a choice without one), "500", "429", …, or a `Fault` where the
message or the headers matter.

Run as a script it serves until killed and prints its base URL, for benchmarks that want it in
another process: `python tests/openai_server.py`.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Reply:
    """One choice. `message`: more fields of it, such as `reasoning_content`."""

    text: str | None = "ok"
    finish_reason: str | None = "stop"
    message: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """A refusal with a message of its own, e.g. `Fault(400, "prompt is too long")`."""

    status: int
    message: str = "injected fault"
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str | None = None


@dataclass(frozen=True)
class Received:
    """One request as it arrived; `at` is time.monotonic()."""

    at: float
    path: str
    body: dict[str, Any]
    headers: dict[str, str]


Answer = Callable[[list[dict[str, str]], int | None, int], str | Reply]


def say_seed(messages: list[dict[str, str]], seed: int | None, sample: int) -> str:
    """The default answer: which seed and which of the n choices this is."""
    return f"seed {seed} sample {sample}"


class OpenAIServer:
    """See the module. Every attribute may be changed while it runs.

    answer: text of one choice, from the messages, the request's seed and the choice's index.
    models: what /v1/models lists; another name in a request is a 404. Empty: any name goes.
    delay: seconds before an answer, or a function of the request's body.
    fail_first, fail_every: the first k and every k-th completion request meet the next of
      `faults`, in turn; 0 is never.
    ignore_n: answers with one choice whatever n says. refuse_n: n > 1 is a 400.
    refuse: looks at a request's body and says how it is refused, if it is.
    extra_choices: so many more choices than asked.
    usage: False leaves it out; a mapping is sent as it is.
    limit_field: the one name of max_tokens that it takes; the other is a 400. None: both.
    key: the API key that it wants; another one is a 401.
    """

    def __init__(
        self,
        answer: Answer = say_seed,
        *,
        models: Sequence[str] = ("test-model",),
        delay: float | Callable[[dict[str, Any]], float] = 0.0,
        fail_first: int = 0,
        fail_every: int = 0,
        faults: Sequence[str | Fault] = ("500",),
        ignore_n: bool = False,
        refuse_n: bool = False,
        refuse: Callable[[dict[str, Any]], Fault | None] = lambda body: None,
        extra_choices: int = 0,
        usage: bool | Mapping[str, Any] = True,
        limit_field: str | None = None,
        key: str | None = None,
        port: int = 0,
    ) -> None:
        self.answer = answer
        self.models = models
        self.delay = delay
        self.fail_first = fail_first
        self.fail_every = fail_every
        self.faults = faults
        self.ignore_n = ignore_n
        self.refuse_n = refuse_n
        self.refuse = refuse
        self.extra_choices = extra_choices
        self.usage = usage
        self.limit_field = limit_field
        self.key = key
        self.port = port
        self.requests: list[Received] = []
        self.connections = 0
        self.in_flight = 0
        self.in_flight_max = 0
        self._completions = 0
        self._failed = 0
        self._ready = threading.Event()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of the completion requests, in their order of arrival."""
        return [r.body for r in self.requests if r.path == "/v1/chat/completions"]

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the test server did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (received := await _read(reader)) is not None:
                self.requests.append(received)
                self.in_flight += 1
                self.in_flight_max = max(self.in_flight_max, self.in_flight)
                try:
                    response, whole = await self._respond(received)
                finally:
                    self.in_flight -= 1
                if not response:
                    break
                writer.write(response)
                await writer.drain()
                if not whole:
                    writer.close()  # after what was written: the client sees a short body
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away
        finally:
            writer.transport.abort()

    async def _respond(self, received: Received) -> tuple[bytes, bool]:
        """Return the response's bytes, and whether they are all of it."""
        if self.key is not None and received.headers.get("authorization") != f"Bearer {self.key}":
            return _refuse(401, "Incorrect API key: " + received.headers["authorization"]), True
        if received.path == "/v1/models":
            listed = [{"id": name, "object": "model"} for name in self.models]
            return _http(200, {"object": "list", "data": listed}), True
        if received.path != "/v1/chat/completions":
            return _refuse(404, "Not Found"), True
        delay = self.delay(received.body) if callable(self.delay) else self.delay
        if delay:
            await asyncio.sleep(delay)
        fault = self._next_fault()
        if fault is not None:
            return await self._fail(fault, received.body)
        refusal = self._refusal(received.body)
        return (refusal or _http(200, self._complete(received.body))), True

    def _next_fault(self) -> str | Fault | None:
        self._completions += 1
        hit = self.fail_every and self._completions % self.fail_every == 0
        if not hit and self._completions > self.fail_first:
            return None
        self._failed += 1
        return self.faults[(self._failed - 1) % len(self.faults)]

    async def _fail(self, fault: str | Fault, body: dict[str, Any]) -> tuple[bytes, bool]:
        if isinstance(fault, str) and fault.isdigit():
            fault = Fault(int(fault))
        if isinstance(fault, Fault):
            return _refuse(fault.status, fault.message, fault.headers, fault.code), True
        whole = self._complete(body)
        match fault:
            case "close":
                return b"", False
            case "hang":
                await self._stop.wait()
                return b"", False
            case "cut":
                response = _http(200, whole)
                return response[: len(response) - 20], False
            case "garbage":
                return _http(200, b"<html>no JSON here</html>"), True
            case "empty":
                return _http(200, {**whole, "choices": []}), True
            case "no-message":
                return _http(200, {**whole, "choices": [{"index": 0}]}), True
        raise ValueError(f"no such fault: {fault}")

    def _refusal(self, body: dict[str, Any]) -> bytes | None:
        if fault := self.refuse(body):
            return _refuse(fault.status, fault.message, fault.headers, fault.code)
        if self.models and body["model"] not in self.models:
            return _refuse(404, f"The model `{body['model']}` does not exist.")
        if self.refuse_n and body.get("n", 1) > 1:
            return _refuse(400, "Only one completion choice is allowed")
        for name in ("max_tokens", "max_completion_tokens"):
            if self.limit_field not in (None, name) and name in body:
                return _refuse(
                    400,
                    f"Unsupported parameter: '{name}' is not supported with this model. "
                    f"Use '{self.limit_field}' instead.",
                )
        return None

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        count = 1 if self.ignore_n else body.get("n", 1)
        replies = []
        for sample in range(count + self.extra_choices):
            said = self.answer(body["messages"], body.get("seed"), sample)
            replies.append(Reply(said) if isinstance(said, str) else said)
        usage = self.usage
        if usage is True:
            prompt = sum(len(m["content"].split()) for m in body["messages"])
            total = sum(len((r.text or "").split()) for r in replies)
            usage = {
                "prompt_tokens": prompt,
                "completion_tokens": total,
                "total_tokens": prompt + total,
            }
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": reply.text, **reply.message},
                "logprobs": None,
                "finish_reason": reply.finish_reason,
            }
            for index, reply in enumerate(replies)
        ]
        return {
            "id": f"chatcmpl-{self._completions}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": choices,
            **({"usage": usage} if usage else {}),
        }


async def _read(reader: asyncio.StreamReader) -> Received | None:
    """Return the next request of a connection, None at its end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    content = await reader.readexactly(int(headers.get("content-length", 0)))
    path = first.split()[1]
    return Received(time.monotonic(), path, json.loads(content) if content else {}, headers)


def _http(status: int, body: object, headers: Mapping[str, str] | None = None) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Content-Type": "application/json", "Content-Length": len(content), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode() + content


def _refuse(
    status: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    code: str | None = None,
) -> bytes:
    error = {"message": message, "type": "injected", "param": None, "code": code}
    return _http(status, {"error": error}, headers)


if __name__ == "__main__":
    text = "First add the tens, then the ones, and carry what is left over. " * 9
    with OpenAIServer(lambda *_: text) as server:
        print(server.base_url, flush=True)  # noqa: T201
        threading.Event().wait()
