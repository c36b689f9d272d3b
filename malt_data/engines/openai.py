"""Completions from any OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama, OpenAI itself.

    engine = await OpenAIEngine.open(None, base_url="http://localhost:8000/v1")
    async for sample, completion in engine.complete(request):
        ...

The `openai` client handles connections, proxies, headers and error classes. Two of its features are
not used:

- Retries (`max_retries=0`): they cover neither an invalid 200 nor a Retry-After above two minutes,
  and wait as long for a closed port as for a busy server. Only `_send` retries.
- The typed `create()`: it validates request and response on every call, which takes half of the
  time. Sending and receiving plain JSON instead doubles the throughput.

A chat is sent to /chat/completions, plain text to /completions.

Servers differ, and the engine remembers what its server does not support: `n` ignored or rejected
(then it sends one request per sample, each with its own seed), or `max_tokens` rejected for
`max_completion_tokens`. An adapter is requested by its name as the model, as vLLM serves them, or
as SGLang names it. docs/servers.md compares the servers.
"""

import asyncio
import os
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from malt_data.engines import Completion, Gate, Request, as_completed
from malt_data.engines.prompts import PLAIN_TEXT
from malt_data.engines.replies import base_models, completions, model_for
from malt_data.errors import EngineDown, EngineError
from malt_data.storage.documents import parse_json

try:
    import openai
except ImportError as error:
    raise EngineDown(
        "The openai engine needs the openai client. Run pip install 'malt-data[openai]', or choose "
        "another engine with --engine."
    ) from error

T = TypeVar("T")

CONNECT_S = 10.0
"""Timeout per connection; with `UNREACHED_RETRIES`, a dead address fails within a minute."""
UNREACHED_RETRIES = 3
"""Retries while connecting fails and has never succeeded: such a server is down, not busy."""
MAX_BACKOFF_S = 30.0
_TRANSIENT = {408, 409, 429, *range(500, 600)}
MAX_RETRY_AFTER_S = 600.0
"""The longest Retry-After to honour; above it the request fails."""
_NEW_LIMIT_FIELD = "max_completion_tokens"
_TOO_LONG = re.compile(r"context (size|length|window)|max_model_len", re.IGNORECASE)
"""In what every server says about a prompt, or prompt and completion, beyond the context."""


class OpenAIEngine:
    """An `Engine` over HTTP; see the module.

    model: the name used by the server; None: its only model.
    base_url: up to and including `/v1`; None: OPENAI_BASE_URL, or OpenAI itself.
    api_key: None: OPENAI_API_KEY; optional with a `base_url`.
    concurrency: HTTP requests in flight; one that waits for a retry keeps its slot.
    timeout_s: seconds until a response must start to arrive.
    backoff_s: pause before the first retry; doubles up to `MAX_BACKOFF_S`.
    """

    def __init__(
        self,
        model: str | None,
        *,
        base_url: str | None,
        api_key: str | None = None,
        concurrency: int = 32,
        max_retries: int = 6,
        timeout_s: float = 600.0,
        backoff_s: float = 0.5,
    ) -> None:
        base_url = (base_url or os.environ.get("OPENAI_BASE_URL") or "").strip() or None
        self._key = _resolve_key(api_key, custom_server=base_url is not None)
        self._url = _display_url(base_url or "https://api.openai.com/v1")
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=self._key,
            max_retries=0,
            timeout=openai.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
        )
        self.model = model or ""
        self.gate = Gate(concurrency)
        self._max_retries = max_retries
        self._timeout_s = timeout_s
        self._backoff_s = backoff_s
        self._has_responded = False
        self._supports_n = True
        self._limit_field = "max_tokens"
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
        batch: list[Completion] = []
        if len(request.seeds) > 1 and self._supports_n:
            batch = await self._complete_batch(request)
            for sample, completion in enumerate(batch):
                yield sample, completion
        missing = range(len(batch), len(request.seeds))
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
        except _Refused:  # because of n > 1? If not, the second request fails for the same reason
            batch = await self._request(request, request.seeds[:1])
        if len(batch) < len(request.seeds):
            self._supports_n = False
        return batch

    async def _complete_one(self, request: Request, sample: int) -> tuple[int, Completion]:
        (completion,) = await self._request(request, request.seeds[sample : sample + 1])
        return sample, completion

    async def _request(self, request: Request, seeds: Sequence[int]) -> list[Completion]:
        plain = isinstance(request.prompt, str)
        path = "/completions" if plain else "/chat/completions"
        body: dict[str, Any] = {
            "model": await self._model_for(request.adapter),
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
        read = partial(completions, seeds=seeds, stop=request.stop)
        async with self.gate.slot(request.priority):
            field = self._limit_field
            try:
                batch, seconds = await self._send(path, body | {field: request.max_tokens}, read)
            except _Refused as error:
                if field == _NEW_LIMIT_FIELD or _NEW_LIMIT_FIELD not in str(error):
                    raise
                field = _NEW_LIMIT_FIELD
                batch, seconds = await self._send(path, body | {field: request.max_tokens}, read)
                self._limit_field = field  # only now is it known to work
        return [replace(completion, latency=seconds) for completion in batch]

    async def _ensure_model(self) -> None:
        """Use the server's only model if none was given."""
        if self.model:
            return
        names, _ = await self._send("/models", None, base_models)
        if len(names) != 1:
            listed = f"{len(names)} models ({', '.join(names[:20]) or 'none'})"
            raise EngineDown(f"{self._url} serves {listed}. Select one with --model.")
        self.model = names[0]

    async def _model_for(self, adapter: str | None) -> str:
        """Return the name to request; raise EngineDown if the server would ignore the adapter."""
        if adapter is None:
            return self.model
        if adapter not in self._adapter_models:
            name: str | None = adapter
            with suppress(EngineDown):  # it has no list; if it is down, the next request says so
                name, _ = await self._send("/models", None, partial(model_for, adapter=adapter))
            if name is None:
                raise EngineDown(
                    f"{self._url} does not list the adapter {adapter!r}, and would answer with its "
                    "base model. Load the adapter under this name, or use another server."
                )
            self._adapter_models[adapter] = name
        return self._adapter_models[adapter]

    async def _send(
        self, path: str, body: dict[str, Any] | None, read: Callable[[Any], T]
    ) -> tuple[T, float]:
        """Send a GET or POST request with retries, and parse the JSON reply with `read`.

        Return the parsed reply and the seconds that the successful attempt took.
        """
        attempt = 0
        while True:
            attempt += 1
            started = time.monotonic()
            try:
                if body is None:
                    text = await self._client.get(path, cast_to=str)
                else:
                    text = await self._client.post(path, cast_to=str, body=body)
                reply = _parse(text, read)
            except (openai.APIError, _InvalidReply) as error:
                delay = self._retry_delay(error, attempt)
                if delay is None:
                    raise self._error_for(error, attempt) from error
            else:
                self._has_responded = True
                return reply, time.monotonic() - started
            await asyncio.sleep(delay)

    def _retry_delay(self, error: Exception, attempt: int) -> float | None:
        """Return the seconds until the next attempt, None if there should be none."""
        retries, retry_after = self._max_retries, 0.0
        if isinstance(error, openai.APIStatusError):
            headers = error.response.headers
            if error.status_code not in _TRANSIENT or headers.get("x-should-retry") == "false":
                return None  # OpenAI sets the header if the quota is exceeded
            retry_after = _retry_after(headers.get("retry-after", ""))
        elif _is_connect_error(error) and not self._has_responded:
            retries = min(retries, UNREACHED_RETRIES)
        if attempt > retries or retry_after > MAX_RETRY_AFTER_S:
            return None
        backoff = min(self._backoff_s * 2.0 ** (attempt - 1), MAX_BACKOFF_S)
        return max(retry_after, backoff) + random.random() * self._backoff_s  # jitter

    def _error_for(self, error: Exception, attempt: int) -> EngineError:
        """Return the error to raise when there are no more retries."""
        attempts = f"after {attempt} attempts" if attempt > 1 else "on the first attempt"
        if isinstance(error, openai.APIStatusError):
            return self._status_error(error, attempts)
        if _is_connect_error(error):
            return EngineDown(
                f"{self._url} could not be reached {attempts} ({self._one_line(error.__cause__)}). "
                "Start the server, or check --base-url."
            )
        if isinstance(error, openai.APITimeoutError):
            return EngineError(
                f"{self._url} did not respond within {self._timeout_s:g} s, {attempts}."
            )
        if isinstance(error, _InvalidReply):
            hint = "" if self._has_responded else " Does --base-url end in /v1?"
            return EngineError(
                f"{self._url} sent an invalid response {attempts} ({self._one_line(error)}).{hint}"
            )
        return EngineError(
            f"{self._url} closed the connection {attempts} ({type(error.__cause__).__name__})."
        )

    def _status_error(self, error: openai.APIStatusError, attempts: str) -> EngineError:
        """Return the error for a 4xx or 5xx status."""
        status, message = error.status_code, self._server_message(error)
        if status == 400 and "provide a chat template" in message:  # as vLLM says it
            return EngineDown(
                f"{self._url} serves a model without a chat template ({message}). Prompt it with "
                f"plain text: {PLAIN_TEXT}."
            )
        if status == 503 and "loading model" in message.lower():  # as llama.cpp says it
            return EngineDown(
                f"{self._url} is still loading its model, {attempts}. Wait until it has, then run "
                "the command again."
            )
        if status in (401, 403):
            reason = f": {message}" if status == 403 else ""  # a 401 may quote the key
            return EngineDown(
                f"{self._url} rejected the API key ({status}{reason}). Set OPENAI_API_KEY to a key "
                f"with access to {self.model!r}."
            )
        if status in (404, 405):
            problem = f"has no model {self.model!r}" if self.model else "has no list of models"
            if error.request.url.path == urlsplit(self._url).path + "/completions":
                problem += " or no /completions, which plain text needs"
            return EngineDown(
                f"{self._url} {problem}, or is not an API root ({status}: {message}). "
                "Check --model, and that --base-url ends in /v1."
            )
        if error.code == "insufficient_quota":
            return EngineDown(
                f"{self._url}: quota exceeded ({status}: {message}). Add credit to the account."
            )
        if status in _TRANSIENT:
            seconds = _retry_after(error.response.headers.get("retry-after", ""))
            hint = f" It asks to wait {seconds:.0f} s." if seconds > MAX_RETRY_AFTER_S else ""
            return EngineError(f"{self._url} returned {status} {attempts}: {message}{hint}")
        hint = ""
        if _TOO_LONG.search(message):
            hint = " Lower --max-tokens, shorten the prompt, or serve a longer context."
        return _Refused(f"{self._url} rejected the request ({status}): {message}{hint}")

    def _server_message(self, error: openai.APIStatusError) -> str:
        """Return the error message of the server."""
        body = error.body
        if isinstance(body, dict):
            body = body.get("message") or body.get("detail") or body
        return self._one_line(body or error.response.reason_phrase)

    def _one_line(self, text: object) -> str:
        """Return `text` on one line of at most 300 characters, with the key redacted."""
        line = " ".join(str(text).split())
        if len(self._key) >= 8:  # shorter ones are placeholders and may occur in ordinary words
            line = line.replace(self._key, "***")
        return line[:300]


class _Refused(EngineError):
    """The server rejected the request, and would reject it again."""


class _InvalidReply(Exception):
    """A 200 whose body is not a valid reply."""


def _resolve_key(api_key: str | None, *, custom_server: bool) -> str:
    key = (api_key or os.environ.get("OPENAI_API_KEY") or "").strip()
    if not key and not custom_server:
        raise EngineDown(
            "The openai engine needs an API key or a server. Set OPENAI_API_KEY, or pass your own "
            "server, such as --base-url http://localhost:8000/v1."
        )
    if not (key.isascii() and key.isprintable()):  # the HTTP client would quote it in an error
        raise EngineDown("The API key contains invalid characters. Copy it again.")
    return key or "none"


def _display_url(url: str) -> str:
    """Validate `url`; return it without user, password and query, for messages."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts = urlsplit("")
    if not parts.hostname or not re.fullmatch(r"https?://[!-~]+", url):
        redacted = url.rpartition("@")[2].partition("?")[0]
        raise EngineDown(
            f"--base-url {redacted!r} is not a valid URL. Example: http://localhost:8000/v1"
        )
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}".rstrip("/")


def _is_connect_error(error: Exception) -> bool:
    # Compared by name: the client raises errors of httpx or httpx2, depending on its version.
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


def _retry_after(header: str) -> float:
    """Parse a Retry-After header; return the seconds to wait, 0.0 if there is none.

    >>> _retry_after("1.5"), _retry_after(""), _retry_after("Wed, 21 Oct 2015 07:28:00 GMT")
    (1.5, 0.0, 0.0)
    """
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _parse(text: str, read: Callable[[Any], T]) -> T:
    try:
        return read(parse_json(text))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise _InvalidReply(repr(text[:80])) from None
