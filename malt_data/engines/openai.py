"""Completions from any OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama, OpenAI itself.

    engine = await OpenAIEngine.open(None, base_url="http://localhost:8000/v1")
    async for sample, completion in engine.complete(request):
        ...

The `openai` client carries the bytes: connections, proxies, headers, error classes. Two things of
it are left aside, each for a reason:

- Its retries (`max_retries=0`): they know neither a broken 200 nor a Retry-After above two
  minutes, and wait as long for a port that nobody listens on as for a busy server. `_send` is the
  only place that retries.
- Its typed `create()`: it walks the types of request and response on every call, half of all its
  time. The body goes out and comes back as plain JSON instead, at twice the rate.

Servers differ, and what one turns out not to know is remembered for the engine's life: `n` ignored
or refused (one request a sample then, each with its own seed), or `max_tokens` refused in favour of
`max_completion_tokens`. An adapter is asked for by its name as the model, as vLLM serves them.
"""

import asyncio
import os
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from malt_data.engines import Completion, Gate, Request, as_completed
from malt_data.engines.replies import base_models, completions
from malt_data.errors import EngineDown, EngineError
from malt_data.storage.documents import parse_json

try:
    import openai
except ImportError as error:
    raise EngineDown(
        "The openai engine needs its client: pip install 'malt-data[openai]', or choose another "
        "with --engine."
    ) from error

T = TypeVar("T")

CONNECT_S = 10.0
"""Seconds for one connection; with `UNREACHED_RETRIES` a dead address fails within a minute."""
UNREACHED_RETRIES = 3
"""Retries where nothing listens and never did: that server is not busy, it is not there."""
MAX_BACKOFF_S = 30.0
_PASSING = {408, 409, 429, *range(500, 600)}
MAX_RETRY_AFTER_S = 600.0
"""The longest wait that a server may ask for; above it the request fails and says so."""
_NEW_LIMIT = "max_completion_tokens"


class OpenAIEngine:
    """An `Engine` over HTTP; see the module.

    model: as the server calls it; None takes the server's only one.
    base_url: up to and including `/v1`; None is OPENAI_BASE_URL, or OpenAI itself.
    api_key: else OPENAI_API_KEY; a server of your own (`base_url`) may need none.
    concurrency: HTTP requests in flight; one that waits for a retry keeps its place.
    timeout_s: seconds in which a whole completion must start to arrive.
    backoff_s: first pause before a retry; doubles up to `MAX_BACKOFF_S`.
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
        self._key = _key(api_key, own_server=base_url is not None)
        self._url = _checked(base_url or "https://api.openai.com/v1")
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
        self._answered = False
        self._takes_n = True
        self._limit_field = "max_tokens"

    @classmethod
    async def open(cls, model: str | None, *, base_url: str | None, **settings: Any) -> Self:
        """Return an engine that knows its model; raises EngineDown where that cannot be had.

        settings: the further arguments of the class.
        """
        engine = cls(model, base_url=base_url, **settings)
        try:
            await engine._know_model()
        except BaseException:
            await engine.close()
            raise
        return engine

    async def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Yield (sample index, completion) as they land.

        Samples of one response carry the seed that was asked, the first; single requests their
        own. Raises EngineError when one cannot be had after retries, EngineDown when none can.
        """
        await self._know_model()
        found: list[Completion] = []
        if len(request.seeds) > 1 and self._takes_n:
            found = await self._several(request)
            for sample, completion in enumerate(found):
                yield sample, completion
        missing = range(len(found), len(request.seeds))
        async with as_completed(self._single(request, sample) for sample in missing) as landing:
            for landed in landing:
                yield await landed

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _several(self, request: Request) -> list[Completion]:
        """Return what one request for all samples brings: all of them, or as many as it can."""
        try:
            found = await self._ask(request, request.seeds)
        except _Refused:  # because of n > 1? A bad prompt is refused again, for its own reason
            found = await self._ask(request, request.seeds[:1])
        if len(found) < len(request.seeds):
            self._takes_n = False
        return found

    async def _single(self, request: Request, sample: int) -> tuple[int, Completion]:
        found = await self._ask(request, request.seeds[sample : sample + 1])
        return sample, found[0]

    async def _ask(self, request: Request, seeds: Sequence[int]) -> list[Completion]:
        body: dict[str, Any] = {
            "model": request.adapter or self.model,
            "messages": request.messages,
            "temperature": request.temperature,
            "seed": seeds[0],
        }
        if len(seeds) > 1:
            body["n"] = len(seeds)  # left out at 1: some servers refuse the field itself
        path, read = "/chat/completions", partial(completions, seeds=seeds)
        async with self.gate.slot(request.priority):
            limit = self._limit_field
            try:
                found, seconds = await self._send(path, body | {limit: request.max_tokens}, read)
            except _Refused as error:
                if limit == _NEW_LIMIT or _NEW_LIMIT not in str(error):
                    raise
                limit = _NEW_LIMIT
                found, seconds = await self._send(path, body | {limit: request.max_tokens}, read)
                self._limit_field = limit  # only now is it known to work
        return [replace(completion, latency=seconds) for completion in found]

    async def _know_model(self) -> None:
        """Take the server's only model where none was named."""
        if self.model:
            return
        names, _ = await self._send("/models", None, base_models)
        if len(names) != 1:
            listed = f"{len(names)} models ({', '.join(names[:20]) or 'none'})"
            raise EngineDown(f"{self._url} serves {listed}: name one with --model.")
        self.model = names[0]

    async def _send(
        self, path: str, body: dict[str, Any] | None, read: Callable[[Any], T]
    ) -> tuple[T, float]:
        """GET or POST, and `read` the JSON; the one place that retries.

        Returns what was read and the seconds of the attempt that succeeded.
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
                reply = _parsed(text, read)
            except (openai.APIError, _Garbage) as error:
                wait = self._wait(error, attempt)
                if wait is None:
                    raise self._failure(error, attempt) from error
            else:
                self._answered = True
                return reply, time.monotonic() - started
            await asyncio.sleep(wait)

    def _wait(self, error: Exception, attempt: int) -> float | None:
        """Return the seconds until the next attempt, None where another one is no use."""
        retries, asked = self._max_retries, 0.0
        if isinstance(error, openai.APIStatusError):
            headers = error.response.headers
            if error.status_code not in _PASSING or headers.get("x-should-retry") == "false":
                return None  # the header is OpenAI's word for an empty account
            asked = _seconds(headers.get("retry-after", ""))
        elif _unreached(error) and not self._answered:
            retries = min(retries, UNREACHED_RETRIES)
        if attempt > retries or asked > MAX_RETRY_AFTER_S:
            return None
        backoff = min(self._backoff_s * 2.0 ** (attempt - 1), MAX_BACKOFF_S)
        return max(asked, backoff) + random.random() * self._backoff_s  # not all at once again

    def _failure(self, error: Exception, attempt: int) -> EngineError:
        """Return what to tell the user: what happened, where, what to do next."""
        tries = f"after {attempt} attempts" if attempt > 1 else "at the first attempt"
        if isinstance(error, openai.APIStatusError):
            return self._refusal(error, tries)
        if _unreached(error):
            return EngineDown(
                f"{self._url} could not be reached {tries} ({self._line(error.__cause__)}): start "
                "the server, or check --base-url."
            )
        if isinstance(error, openai.APITimeoutError):
            return EngineError(f"{self._url} gave no answer within {self._timeout_s:g} s, {tries}.")
        if isinstance(error, _Garbage):
            hint = "" if self._answered else ": does --base-url end in /v1?"
            return EngineError(
                f"{self._url} answered without a completion {tries} ({self._line(error)}){hint}"
            )
        return EngineError(
            f"{self._url} broke the connection {tries} ({type(error.__cause__).__name__})."
        )

    def _refusal(self, error: openai.APIStatusError, tries: str) -> EngineError:
        """Return the failure for a status of 4xx or 5xx."""
        status, said = error.status_code, self._said(error)
        if status in (401, 403):
            why = f": {said}" if status == 403 else ""  # a 401 tends to quote the key
            return EngineDown(
                f"{self._url} refuses the API key ({status}{why}): set OPENAI_API_KEY to one of "
                f"its own that may use {self.model!r}."
            )
        if status in (404, 405):
            lacks = f"does not know model {self.model!r}" if self.model else "lists no models"
            return EngineDown(
                f"{self._url} {lacks}, or is no API root ({status}: {said}): check --model, and "
                "that --base-url ends in /v1."
            )
        if error.code == "insufficient_quota":
            return EngineDown(f"{self._url}: the account is empty ({status}: {said}); top it up.")
        if status in _PASSING:
            asked = _seconds(error.response.headers.get("retry-after", ""))
            later = f" It asks to wait {asked:.0f} s." if asked > MAX_RETRY_AFTER_S else ""
            return EngineError(f"{self._url} answered {status} {tries}: {said}{later}")
        return _Refused(f"{self._url} refused the request ({status}): {said}")

    def _said(self, error: openai.APIStatusError) -> str:
        """Return the server's own words."""
        body = error.body
        if isinstance(body, dict):
            body = body.get("message") or body.get("detail") or body
        return self._line(body or error.response.reason_phrase)

    def _line(self, text: object) -> str:
        """Return at most 300 characters on one line, without the key."""
        line = " ".join(str(text).split())
        if len(self._key) >= 8:  # shorter ones are placeholders, and parts of common words
            line = line.replace(self._key, "***")
        return line[:300]


class _Refused(EngineError):
    """The server understood and will not: the same request would be refused again."""


class _Garbage(Exception):
    """A 200 that holds no answer."""


def _key(given: str | None, *, own_server: bool) -> str:
    key = (given or os.environ.get("OPENAI_API_KEY") or "").strip()
    if not key and not own_server:
        raise EngineDown(
            "The openai engine has no key and no server: set OPENAI_API_KEY, or name a server of "
            "your own with --base-url http://localhost:8000/v1."
        )
    if not (key.isascii() and key.isprintable()):  # the HTTP client would quote it in its error
        raise EngineDown(
            "The API key holds a line break or a letter that no key has: copy it anew."
        )
    return key or "none"


def _checked(url: str) -> str:
    """Return `url` as messages show it, without user, password and query."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts = urlsplit("")
    if not parts.hostname or not re.fullmatch(r"https?://[!-~]+", url):
        written = url.rpartition("@")[2].partition("?")[0]
        raise EngineDown(
            f"--base-url {written!r} is no URL: write it like http://localhost:8000/v1."
        )
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}".rstrip("/")


def _unreached(error: Exception) -> bool:
    # By name: the client raises httpx's or httpx2's, depending on its version.
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


def _seconds(retry_after: str) -> float:
    """Return the wait that a Retry-After header asks for, 0.0 where it asks for none.

    >>> _seconds("1.5"), _seconds(""), _seconds("Wed, 21 Oct 2015 07:28:00 GMT")
    (1.5, 0.0, 0.0)
    """
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _parsed(text: str, read: Callable[[Any], T]) -> T:
    try:
        return read(parse_json(text))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise _Garbage(repr(text[:80])) from None
