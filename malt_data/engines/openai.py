"""Completions from any OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama, OpenAI itself.

    engine = await OpenAIEngine.open(None, base_url="http://localhost:8000/v1")
    async for sample, completion in engine.complete(request):
        ...

The `openai` client handles connections, proxies, headers and error classes. Three of its features
are not used:

- Retries (`max_retries=0`): they cover neither an invalid 200 nor a Retry-After above two minutes,
  and wait as long for a closed port as for a busy server. Only `_sent` retries.
- The typed `create()`: it validates request and response on every call, which takes half of the
  time. Sending and receiving plain JSON instead doubles the throughput.
- Its default transport, and its typed streams: see `connecting` and `streaming`.

A chat is sent to /chat/completions, plain text to /completions. If somebody waits for each sample
(`request.eager`), the response is streamed, and a sample is yielded when it ends, not when the
slowest one does. Samples that a stream did not end are requested one by one.

Servers differ, and the engine remembers what its server does not support: `n` ignored or rejected
(then it sends one request per sample, each with its own seed), `stream` rejected, or `max_tokens`
rejected for `max_completion_tokens`. An adapter is requested by its name as the model, as vLLM
serves them, or as SGLang names it. docs/servers.md compares the servers.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Self, TypeVar

from malt_data.engines import Completion, Gate, Request, as_completed
from malt_data.engines.concurrency import FIRST, MOST, Concurrency
from malt_data.engines.replies import MALFORMED, Habits, base_models, completions, model_for
from malt_data.errors import EngineDown
from malt_data.storage.documents import parse_json

try:
    import aiohttp  # noqa: F401 - the transport
    import openai

    from malt_data.engines import connecting, refusals
    from malt_data.engines.refusals import InvalidReply, Refused
    from malt_data.engines.streaming import Stream, counted, ends
except ImportError as error:
    raise EngineDown(
        "The openai engine needs the openai client with its aiohttp transport. Run pip install "
        "'malt-data[openai]', or choose another engine with --engine."
    ) from error

T = TypeVar("T")

CONNECT_S = 10.0
"""Timeout per connection; with `UNREACHED_RETRIES`, a dead address fails within a minute."""
UNREACHED_RETRIES = 3
"""Retries while connecting fails and has never succeeded: such a server is down, not busy."""
MAX_BACKOFF_S = 30.0
BROKEN_STREAMS = 3
"""After so many broken streams in a row, the server is asked without."""
_NEW_LIMIT_FIELD = "max_completion_tokens"


class OpenAIEngine:
    """An `Engine` over HTTP; see the module.

    model: the name used by the server; None: its only model.
    base_url: up to and including `/v1`; None: OPENAI_BASE_URL, or OpenAI itself.
    api_key: None: OPENAI_API_KEY; optional with a `base_url`.
    concurrency: HTTP requests in flight; None: as many as the server bears (`Concurrency`). One
      that waits for a retry keeps its slot, then queues again, as the width may have been cut.
    timeout_s: seconds until a response must start, or a stream go on, to arrive.
    backoff_s: pause before the first retry; doubles up to `MAX_BACKOFF_S`.
    """

    def __init__(
        self,
        model: str | None,
        *,
        base_url: str | None,
        api_key: str | None = None,
        concurrency: int | None = None,
        max_retries: int = 6,
        timeout_s: float = 600.0,
        backoff_s: float = 0.5,
    ) -> None:
        base_url = (base_url or os.environ.get("OPENAI_BASE_URL") or "").strip() or None
        key = connecting.resolve_key(api_key, custom_server=base_url is not None)
        url = connecting.display_url(base_url or "https://api.openai.com/v1")
        self._concurrency = None if concurrency else Concurrency()
        self.gate = Gate(concurrency) if concurrency else Gate(FIRST, MOST)
        timeout = openai.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))
        self._client = connecting.connect(base_url, key, timeout, self.gate.limit)
        self.model = model or ""
        self._server = refusals.Server(url, key, timeout_s, self.model)
        self._max_retries = max_retries
        self._backoff_s = backoff_s
        self._supports_n = True
        self._supports_stream = True
        self._broken_streams = 0
        self._limit_field = "max_tokens"
        self._habits = Habits()
        self._adapter_models: dict[str, str] = {}

    @classmethod
    async def open(cls, model: str | None, *, base_url: str | None, **settings: Any) -> Self:
        """Return an engine with its model resolved; raise EngineDown if that fails.

        settings: further arguments of the class.
        """
        engine = cls(model, base_url=base_url, **settings)
        try:
            await engine._ensure_model()
        except BaseException:
            await engine.close()
            raise
        return engine

    async def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Yield (sample index, completion) in order of completion.

        Samples of one response all record the seed of the request, which is the first; samples
        requested separately record their own. Raises EngineError if a sample fails after retries,
        EngineDown if no request can succeed.
        """
        await self._ensure_model()
        await self._find_adapter(request.adapter)
        have: set[int] = set()
        if len(request.seeds) > 1 and self._supports_n:
            refused = False
            if request.eager and self._supports_stream:
                try:
                    async with aclosing(self._stream(request)) as samples:  # type: ignore[type-var]
                        async for sample, completion in samples:
                            have.add(sample)
                            yield sample, completion
                except Refused:  # because of the stream? Not if the same is refused without
                    refused = True
            if not have:
                batch = await self._complete_batch(request)
                self._supports_stream &= not (refused and self._supports_n)
                have.update(range(len(batch)))
                for sample, completion in enumerate(batch):
                    yield sample, completion
        missing = [i for i in range(len(request.seeds)) if i not in have]
        async with as_completed(self._complete_one(request, i) for i in missing) as results:
            for result in results:
                yield await result

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _complete_batch(self, request: Request) -> list[Completion]:
        """Request all samples at once; return as many as the server provides."""
        try:
            batch = await self._request(request, request.seeds)
        except Refused:  # because of n > 1? If not, the second request fails for the same reason
            batch = await self._request(request, request.seeds[:1])
        if len(batch) < len(request.seeds):
            self._supports_n = False
        return batch

    async def _complete_one(self, request: Request, sample: int) -> tuple[int, Completion]:
        (completion,) = await self._request(request, request.seeds[sample : sample + 1])
        return sample, completion

    async def _request(self, request: Request, seeds: Sequence[int]) -> list[Completion]:
        read = self._reader(request, seeds)

        async def send(path: str, body: dict[str, Any]) -> list[Completion]:
            return _parse(await self._client.post(path, cast_to=str, body=body), read)

        async with self._answered(request, seeds, send) as (batch, started):
            seconds = time.monotonic() - started
        return [replace(completion, latency=seconds) for completion in batch]

    async def _stream(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Yield each sample when it ends, and again with its token counts when the stream does.

        Stops early if the stream breaks off. Raises Refused if there is none.
        """
        count = len(request.seeds)
        read = self._reader(request, request.seeds)

        async def send(path: str, body: dict[str, Any]) -> Any:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
            events = openai.AsyncStream[Any]
            opened = await self._client.post(
                path, cast_to=object, body=body, stream=True, stream_cls=events
            )
            if "json" not in opened.response.headers.get("content-type", ""):
                return opened.response
            await opened.response.aread()  # the server ignores `stream`
            return _parse(opened.response.text, read)

        async with self._answered(request, request.seeds, send) as (response, started):
            if isinstance(response, list):
                seconds = time.monotonic() - started
                self._supports_n = len(response) == count
                for sample, completion in enumerate(response):
                    yield sample, replace(completion, latency=seconds)
                return
            stream, early = Stream(count), dict[int, Completion]()
            async with aclosing(ends(response, stream)) as samples:  # type: ignore[type-var]
                async for sample in samples:
                    (completion,) = read(stream.reply([sample]) | {"usage": None})
                    early[sample] = replace(completion, latency=time.monotonic() - started)
                    yield sample, replace(early[sample], counted=False)
            seconds = time.monotonic() - started
        ended = stream.ended
        self._note_stream(stream, ended, count)
        for sample, completion in zip(ended, counted(stream, ended, read), strict=True):
            # The text that its children were asked with: the habits may have changed since.
            said = early.get(sample, replace(completion, latency=seconds))
            told = replace(
                said,
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
                cached_tokens=completion.cached_tokens,
            )
            yield sample, told

    def _reader(self, request: Request, seeds: Sequence[int]) -> Callable[[Any], list[Completion]]:
        return partial(completions, seeds=seeds, stop=request.stop, habits=self._habits)

    def _note_stream(self, stream: Stream, ended: Sequence[int], count: int) -> None:
        """Remember what the end of a stream says about the server."""
        if len(ended) == count or (ended and stream.done and not stream.broken):
            self._broken_streams = 0
            self._supports_n = len(ended) == count
        else:
            self._broken_streams += 1
            self._supports_stream = self._broken_streams < BROKEN_STREAMS

    @asynccontextmanager
    async def _answered(
        self,
        request: Request,
        seeds: Sequence[int],
        send: Callable[[str, dict[str, Any]], Awaitable[T]],
    ) -> AsyncIterator[tuple[T, float]]:
        """Send a request with the name of the token limit that the server knows; see `_sent`."""
        path, body = self._body(request, seeds)
        field = self._limit_field
        async with AsyncExitStack() as stack:

            async def attempt() -> tuple[T, float]:
                named = body | {field: request.max_tokens}
                return await stack.enter_async_context(
                    self._sent(lambda: send(path, named), request.priority)
                )

            try:
                answer = await attempt()
            except Refused as error:
                if field == _NEW_LIMIT_FIELD or _NEW_LIMIT_FIELD not in str(error):
                    raise
                field = _NEW_LIMIT_FIELD
                answer = await attempt()
                self._limit_field = field  # only now is it known to work
            yield answer

    def _body(self, request: Request, seeds: Sequence[int]) -> tuple[str, dict[str, Any]]:
        """Return the path and the body of a request, without its token limit."""
        plain = isinstance(request.prompt, str)
        body: dict[str, Any] = {
            "model": self._adapter_models.get(request.adapter or "", self.model),
            "prompt" if plain else "messages": request.prompt,
            "temperature": request.temperature,
            "seed": seeds[0],
            **request.sampling,
        }
        if request.template:
            body["chat_template_kwargs"] = dict(request.template)
        if request.stop:
            body["stop"] = request.stop
        if len(seeds) > 1:
            body["n"] = len(seeds)  # omitted if 1: some servers reject the field itself
        return "/completions" if plain else "/chat/completions", body

    async def _ensure_model(self) -> None:
        """Use the server's only model if none was given."""
        if self.model:
            return

        async def send() -> list[str]:
            return _parse(await self._client.get("/models", cast_to=str), base_models)

        async with self._sent(send) as (names, _):
            pass
        if len(names) != 1:
            listed = f"{len(names)} models ({', '.join(names[:20]) or 'none'})"
            raise EngineDown(f"{self._server.url} serves {listed}. Select one with --model.")
        self.model = self._server.model = names[0]

    async def _find_adapter(self, adapter: str | None) -> None:
        """Learn the name of an adapter; raise EngineDown if the server would ignore it."""
        if adapter is None or adapter in self._adapter_models:
            return

        async def send() -> str | None:
            read = partial(model_for, adapter=adapter)
            return _parse(await self._client.get("/models", cast_to=str), read)

        name: str | None = adapter
        with suppress(EngineDown):  # it has no list; if it is down, the next request says so
            async with self._sent(send) as (name, _):
                pass
        if name is None:
            raise EngineDown(
                f"{self._server.url} does not list the adapter {adapter!r}, and would answer with "
                "its base model. Load the adapter under this name, or use another server."
            )
        self._adapter_models[adapter] = name

    @asynccontextmanager
    async def _sent(
        self, send: Callable[[], Awaitable[T]], priority: int = 0
    ) -> AsyncIterator[tuple[T, float]]:
        """Send a request with retries; yield the answer, and when the successful attempt began.

        The slot is held until the caller is done with the answer.
        """
        attempt = 0
        while True:
            attempt += 1
            async with self.gate.slot(priority):
                started = time.monotonic()
                try:
                    answer = await send()
                except refusals.FAILURES as error:
                    delay = self._retry_delay(error, attempt)
                    if delay is None:
                        raise self._server.error_for(error, attempt) from error
                    if refusals.is_busy(error):
                        self._adapt(started, refused=True)
                    await asyncio.sleep(delay)
                    continue
                self._server.has_responded = True
                yield answer, started
                self._adapt(started)
                return

    def _adapt(self, started: float, refused: bool = False) -> None:
        """Let the width follow what the server bears, unless it is fixed."""
        if self._concurrency is None:
            return
        now = time.monotonic()
        if refused:
            self._concurrency.refused(now, now - started)
        else:
            self._concurrency.finished(now, now - started, self.gate.running)
        if self.gate.width != self._concurrency.width:
            self.gate.width = self._concurrency.width

    def _retry_delay(self, error: Exception, attempt: int) -> float | None:
        """Return the seconds until the next attempt, None if there should be none."""
        retries, retry_after = self._max_retries, refusals.retry_after(error)
        if refusals.is_unreached(error) and not self._server.has_responded:
            retries = min(retries, UNREACHED_RETRIES)
        if attempt > retries or retry_after is None:
            return None
        backoff = min(self._backoff_s * 2.0 ** (attempt - 1), MAX_BACKOFF_S)
        return max(retry_after, backoff) + random.random() * self._backoff_s  # jitter


def _parse(text: str, read: Callable[[Any], T]) -> T:
    try:
        return read(parse_json(text))
    except MALFORMED:
        raise InvalidReply(repr(text[:80])) from None
