"""A small HTTP server for /v1/chat/completions, /v1/completions and /v1/models that misbehaves on
request.

It runs in a thread of the test process on a free loopback port, keeps connections alive, and
injects faults, so that tests use real sockets instead of mocks.

    with OpenAIServer(answer=lambda messages, seed, sample: "42", fail_every=5) as server:
        engine = OpenAIEngine("test-model", base_url=server.base_url)
        ...
    assert server.requests[0].body["n"] == 3

A fault is a name or a status: "close" (reset before the response), "cut" (connection closed
halfway), "hang" (no response until the server stops), "garbage" (a 200 that is not JSON), "empty"
(no choices), "no-message" (a choice without one), "500", "429", …, or a `Fault` if the message or
the headers matter.

Run as a script, it prints its base URL and serves until killed, for benchmarks that need it in a
separate process: `python tests/openai_server.py`.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self


@dataclass(frozen=True)
class Reply:
    """One choice. `message`: extra fields of its message, such as `reasoning_content`."""

    text: str | None = "ok"
    finish_reason: str | None = "stop"
    message: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """An error response with a custom message, e.g. `Fault(400, "prompt is too long")`."""

    status: int
    message: str = "injected fault"
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str | None = None


@dataclass(frozen=True)
class Received:
    """One received request; `at` is its time.monotonic()."""

    at: float
    path: str
    body: dict[str, Any]
    headers: dict[str, str]


CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"

Answer = Callable[[list[dict[str, str]], int | None, int], str | Reply]


def echo_seed(messages: list[dict[str, str]], seed: int | None, sample: int) -> str:
    """The default answer: the seed and the index of the choice."""
    return f"seed {seed} sample {sample}"


class OpenAIServer:
    """See the module. Every attribute may be changed while the server is running.

    answer: the text of one choice, given the messages, the request's seed and the choice's index.
      A prompt in plain text is passed as one message of the user.
    models: the models in /v1/models; any other in a request is a 404. Empty: any is accepted.
    delay: seconds before a response, or a function of the request body.
    fail_first, fail_every: fail the first k and every k-th completion request with the next of
      `faults`, in rotation; 0: never.
    ignore_n: return one choice regardless of n. refuse_n: n > 1 is a 400.
    keep_stop: leave the stop string at the end of the text.
    has_completions: whether there is /v1/completions. has_chat: False: a chat is a 400, as vLLM
      responds for a model without a chat template.
    refuse: return a fault for a request body, or None to accept it.
    raw: return status and body of the response to a path and request body, or None for the usual.
    extra_choices: how many more choices to return than requested.
    usage: False omits it; a mapping is sent as is.
    limit_field: the only accepted name of max_tokens; the other is a 400. None: both.
    key: the expected API key; any other is a 401.
    capacity: requests at a time; one more is a 429.
    choice_delay: seconds from the start of a stream to the end of a choice, by its index.
    stream_fault: how streams fail after the first choice has ended: "cut", "error", "garbage"; or
      "ignore": the response is not streamed.
    """

    def __init__(
        self,
        answer: Answer = echo_seed,
        *,
        models: Sequence[str] = ("test-model",),
        delay: float | Callable[[dict[str, Any]], float] = 0.0,
        fail_first: int = 0,
        fail_every: int = 0,
        faults: Sequence[str | Fault] = ("500",),
        ignore_n: bool = False,
        refuse_n: bool = False,
        keep_stop: bool = False,
        has_completions: bool = True,
        has_chat: bool = True,
        refuse: Callable[[dict[str, Any]], Fault | None] = lambda body: None,
        raw: Callable[[str, dict[str, Any]], tuple[int, object] | None] = lambda path, body: None,
        extra_choices: int = 0,
        usage: bool | Mapping[str, Any] = True,
        limit_field: str | None = None,
        key: str | None = None,
        capacity: int | None = None,
        choice_delay: Callable[[int], float] = lambda sample: 0.0,
        stream_fault: str | None = None,
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
        self.keep_stop = keep_stop
        self.has_completions = has_completions
        self.has_chat = has_chat
        self.refuse = refuse
        self.raw = raw
        self.extra_choices = extra_choices
        self.usage = usage
        self.limit_field = limit_field
        self.key = key
        self.capacity = capacity
        self.choice_delay = choice_delay
        self.stream_fault = stream_fault
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
        """The bodies of the completion requests, in order of arrival."""
        return [r.body for r in self.requests if r.path in (CHAT, PLAIN)]

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
                    response, complete = await self._respond(received)
                    if complete and received.body.get("stream"):
                        response, complete = await self._stream(response, writer)
                finally:
                    self.in_flight -= 1
                if not response:
                    break
                writer.write(response)
                await writer.drain()
                if not complete:
                    writer.close()  # after what was written, so the client sees a short body
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away
        finally:
            writer.transport.abort()

    async def _respond(self, received: Received) -> tuple[bytes, bool]:
        """Return the bytes to send, and whether they are the complete response."""
        if self.key is not None and received.headers.get("authorization") != f"Bearer {self.key}":
            return _error_response(
                401, "Incorrect API key: " + received.headers["authorization"]
            ), True
        if (response := self.raw(received.path, received.body)) is not None:
            return _http(*response), True
        if received.path == "/v1/models":
            models = [{"id": name, "object": "model"} for name in self.models]
            return _http(200, {"object": "list", "data": models}), True
        if received.path not in (CHAT, PLAIN)[: 1 + self.has_completions]:
            return _error_response(404, "Not Found"), True
        if self.capacity is not None and self.in_flight > self.capacity:
            return _error_response(429, "too many requests"), True
        delay = self.delay(received.body) if callable(self.delay) else self.delay
        if delay:
            await asyncio.sleep(delay)
        fault = self._next_fault()
        if fault is not None:
            return await self._fail(fault, received.body)
        refusal = self._refusal(received.body)
        return (refusal or _http(200, self._complete(received.body))), True

    async def _stream(self, response: bytes, writer: asyncio.StreamWriter) -> tuple[bytes, bool]:
        """Send a response in chunks but for its end, which is returned as by `_respond`."""
        head, _, content = response.partition(b"\r\n\r\n")
        if b" 200 " not in head or not content.startswith(b"{") or self.stream_fault == "ignore":
            return response, True
        reply = json.loads(content)
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + _chunk(b": a comment\n\n")
        )
        choices = [each for each in reply["choices"] if "message" in each or "text" in each]
        for choice in choices:
            writer.write(_chunk(_event({"choices": [_piece(choice, 0)]})))
        clock = 0.0
        for ended, choice in enumerate(sorted(choices, key=self._seconds)):
            if ended == 1 and self.stream_fault == "cut":
                return b"", False
            if ended == 1 and self.stream_fault == "garbage":
                writer.write(_chunk(b"data: <html>\n\n"))
            if ended == 1 and self.stream_fault == "error":
                writer.write(_chunk(_event({"error": {"message": "out of memory"}})))
            await asyncio.sleep(self._seconds(choice) - clock)
            clock = self._seconds(choice)
            writer.write(_chunk(_event({"choices": [_piece(choice, 1)]})))
            await writer.drain()
        if reply.get("usage"):
            writer.write(_chunk(_event({"choices": [], "usage": reply["usage"]})))
        return _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n", True

    def _seconds(self, choice: Mapping[str, Any]) -> float:
        return self.choice_delay(choice["index"])

    def _next_fault(self) -> str | Fault | None:
        self._completions += 1
        due = self.fail_every and self._completions % self.fail_every == 0
        if not due and self._completions > self.fail_first:
            return None
        self._failed += 1
        return self.faults[(self._failed - 1) % len(self.faults)]

    async def _fail(self, fault: str | Fault, body: dict[str, Any]) -> tuple[bytes, bool]:
        if isinstance(fault, str) and fault.isdigit():
            fault = Fault(int(fault))
        if isinstance(fault, Fault):
            return _error_response(fault.status, fault.message, fault.headers, fault.code), True
        reply = self._complete(body)
        match fault:
            case "close":
                return b"", False
            case "hang":
                await self._stop.wait()
                return b"", False
            case "cut":
                response = _http(200, reply)
                return response[: len(response) - 20], False
            case "garbage":
                return _http(200, b"<html>no JSON here</html>"), True
            case "empty":
                return _http(200, {**reply, "choices": []}), True
            case "no-message":
                return _http(200, {**reply, "choices": [{"index": 0}]}), True
        raise ValueError(f"unknown fault: {fault}")

    def _refusal(self, body: dict[str, Any]) -> bytes | None:
        if "messages" in body and not self.has_chat:
            return _error_response(
                400,
                "As of transformers v4.44, default chat template is no longer allowed, so you must "
                "provide a chat template if the tokenizer does not define one.",
            )
        if fault := self.refuse(body):
            return _error_response(fault.status, fault.message, fault.headers, fault.code)
        if self.models and body["model"] not in self.models:
            return _error_response(404, f"The model `{body['model']}` does not exist.")
        if self.refuse_n and body.get("n", 1) > 1:
            return _error_response(400, "Only one completion choice is allowed")
        for name in ("max_tokens", "max_completion_tokens"):
            if self.limit_field not in (None, name) and name in body:
                return _error_response(
                    400,
                    f"Unsupported parameter: '{name}' is not supported with this model. "
                    f"Use '{self.limit_field}' instead.",
                )
        return None

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        count = 1 if self.ignore_n else body.get("n", 1)
        plain = "prompt" in body
        messages = [{"role": "user", "content": body["prompt"]}] if plain else body["messages"]
        replies = []
        for sample in range(count + self.extra_choices):
            choice = self.answer(messages, body.get("seed"), sample)
            reply = Reply(choice) if isinstance(choice, str) else choice
            replies.append(self._stopped(reply, body.get("stop", [])))
        usage = self.usage
        if usage is True:
            prompt = sum(len(m["content"].split()) for m in messages)
            completion = sum(len((r.text or "").split()) for r in replies)
            usage = {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            }
        choices = [
            {
                "index": index,
                **(
                    {"text": reply.text}
                    if plain
                    else {"message": {"role": "assistant", "content": reply.text, **reply.message}}
                ),
                "logprobs": None,
                "finish_reason": reply.finish_reason,
            }
            for index, reply in enumerate(replies)
        ]
        return {
            "id": f"{'cmpl' if plain else 'chatcmpl'}-{self._completions}",
            "object": "text_completion" if plain else "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": choices,
            **({"usage": usage} if usage else {}),
        }

    def _stopped(self, reply: Reply, stop: Sequence[str]) -> Reply:
        """Return the reply, ended at the first of the stop strings."""
        text = reply.text or ""
        ends = [text.index(each) + len(each) * self.keep_stop for each in stop if each in text]
        return replace(reply, text=text[: min(ends)], finish_reason="stop") if ends else reply


def _piece(choice: Mapping[str, Any], part: int) -> dict[str, Any]:
    """Return the first or the second half of a choice, as a chunk of a stream."""
    said = choice.get("message") or {"text": choice["text"]}
    half = {
        name: text[: len(text) // 2] if part == 0 else text[len(text) // 2 :]
        for name, text in said.items()
        if isinstance(text, str) and name != "role"
    }
    finish_reason = choice["finish_reason"] if part else None
    return {
        "index": choice["index"],
        **({"delta": half} if "message" in choice else half),
        "finish_reason": finish_reason,
    }


def _event(content: object) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def _read(reader: asyncio.StreamReader) -> Received | None:
    """Return the next request of a connection, None when it is closed."""
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
    return f"HTTP/1.1 {status} Status\r\n{head}\r\n".encode() + content


def _error_response(
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
