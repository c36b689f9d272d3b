"""What went wrong with a request to an OpenAI-compatible server: whether to retry, what to say.

    except FAILURES as error:
        delay = backoff(error, attempt, ...)
        if delay is None:
            raise server.error_for(error, attempt) from error

The client wraps the errors of its HTTP library, which wraps those of aiohttp. All of aiohttp's
connection errors look like a ConnectTimeout there, including a connection that the server closed.
Hence errors are told apart by the innermost of the chain.
"""

import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib import import_module
from urllib.parse import urlsplit

import aiohttp
import openai

from malt_data.engines.prompts import PLAIN_TEXT
from malt_data.errors import EngineDown, EngineError

MAX_RETRY_AFTER_S = 600.0
"""The longest Retry-After to honour; above it the request fails."""
TRANSIENT = {408, 409, 429, *range(500, 600)}
_BUSY = {429, 503}
_TOO_LONG = re.compile(r"context (size|length|window)|max_model_len", re.IGNORECASE)
"""In what every server says about a prompt, or prompt and completion, beyond the context."""


class Refused(EngineError):
    """The server rejected the request, and would reject it again."""


class InvalidReply(Exception):
    """A 200 whose body is not a valid reply."""


_httpx = import_module(type(openai.DEFAULT_CONNECTION_LIMITS).__module__.partition(".")[0])
# httpx2 or httpx, whichever this version of the client is built on

READ_ERRORS: tuple[type[Exception], ...] = (_httpx.HTTPError, aiohttp.ClientError)
"""What reading a response may raise."""
FAILURES: tuple[type[Exception], ...] = (openai.APIError, InvalidReply, *READ_ERRORS)
"""What a request may raise."""


def retry_after(error: Exception) -> float | None:
    """Return the seconds that the server asks to wait; None if a retry is pointless."""
    if not isinstance(error, openai.APIStatusError):
        return 0.0
    headers = error.response.headers
    if error.status_code not in TRANSIENT or headers.get("x-should-retry") == "false":
        return None  # OpenAI sets the header if the quota is exceeded
    seconds = _seconds(headers.get("retry-after", ""))
    return None if seconds > MAX_RETRY_AFTER_S else seconds


def is_busy(error: Exception) -> bool:
    """Return whether the server says that it has too much to do, or shows it by a timeout."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in _BUSY
    return _is_timeout(error)


def is_unreached(error: Exception) -> bool:
    """Return whether no connection could be opened."""
    return isinstance(_cause(error), aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)


def _is_timeout(error: Exception) -> bool:
    cause = _cause(error)
    return isinstance(cause, TimeoutError) and not isinstance(cause, aiohttp.ConnectionTimeoutError)


def _cause(error: BaseException) -> BaseException:
    """Return the error of aiohttp behind one of the client, or the innermost that there is."""
    while not isinstance(error, aiohttp.ClientError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _seconds(header: str) -> float:
    """Parse a Retry-After header; return the seconds to wait, 0.0 if there is none.

    >>> _seconds("1.5"), _seconds(""), _seconds("Wed, 21 Oct 2015 07:28:00 GMT")
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


@dataclass
class Server:
    """What is known about a server, for messages. `url`: without user, password and query."""

    url: str
    key: str
    timeout_s: float
    model: str
    has_responded: bool = False

    def error_for(self, error: Exception, attempt: int) -> EngineError:
        """Return the error to raise when there are no more retries."""
        attempts = f"after {attempt} attempts" if attempt > 1 else "on the first attempt"
        if isinstance(error, openai.APIStatusError):
            return self._status_error(error, attempts)
        if is_unreached(error):
            return EngineDown(
                f"{self.url} could not be reached {attempts} ({self._one_line(_cause(error))}). "
                "Start the server, or check --base-url."
            )
        if _is_timeout(error):
            return EngineError(
                f"{self.url} did not respond within {self.timeout_s:g} s, {attempts}."
            )
        if isinstance(error, InvalidReply):
            hint = "" if self.has_responded else " Does --base-url end in /v1?"
            return EngineError(
                f"{self.url} sent an invalid response {attempts} ({self._one_line(error)}).{hint}"
            )
        return EngineError(
            f"{self.url} closed the connection {attempts} ({type(_cause(error)).__name__})."
        )

    def _status_error(self, error: openai.APIStatusError, attempts: str) -> EngineError:
        """Return the error for a 4xx or 5xx status."""
        status, message = error.status_code, self._message(error)
        if status == 400 and "provide a chat template" in message:  # as vLLM says it
            return EngineDown(
                f"{self.url} serves a model without a chat template ({message}). Prompt it with "
                f"plain text: {PLAIN_TEXT}."
            )
        if status == 503 and "loading model" in message.lower():  # as llama.cpp says it
            return EngineDown(
                f"{self.url} is still loading its model, {attempts}. Wait until it has, then run "
                "the command again."
            )
        if status in (401, 403):
            reason = f": {message}" if status == 403 else ""  # a 401 may quote the key
            return EngineDown(
                f"{self.url} rejected the API key ({status}{reason}). Set OPENAI_API_KEY to a key "
                f"with access to {self.model!r}."
            )
        if status in (404, 405):
            problem = f"has no model {self.model!r}" if self.model else "has no list of models"
            if error.request.url.path == urlsplit(self.url).path + "/completions":
                problem += " or no /completions, which plain text needs"
            return EngineDown(
                f"{self.url} {problem}, or is not an API root ({status}: {message}). "
                "Check --model, and that --base-url ends in /v1."
            )
        if error.code == "insufficient_quota":
            return EngineDown(
                f"{self.url}: quota exceeded ({status}: {message}). Add credit to the account."
            )
        if status in TRANSIENT:
            seconds = _seconds(error.response.headers.get("retry-after", ""))
            hint = f" It asks to wait {seconds:.0f} s." if seconds > MAX_RETRY_AFTER_S else ""
            return EngineError(f"{self.url} returned {status} {attempts}: {message}{hint}")
        hint = ""
        if _TOO_LONG.search(message):
            hint = " Lower --max-tokens, shorten the prompt, or serve a longer context."
        return Refused(f"{self.url} rejected the request ({status}): {message}{hint}")

    def _message(self, error: openai.APIStatusError) -> str:
        """Return the error message of the server."""
        body = error.body
        if isinstance(body, dict):
            body = body.get("message") or body.get("detail") or body
        return self._one_line(body or error.response.reason_phrase)

    def _one_line(self, text: object) -> str:
        """Return `text` on one line of at most 300 characters, with the key redacted."""
        line = " ".join(str(text).split())
        if len(self.key) >= 8:  # shorter ones are placeholders and may occur in ordinary words
            line = line.replace(self.key, "***")
        return line[:300]
