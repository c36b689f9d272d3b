"""Open the client of an OpenAI-compatible server: address, key, and how many connections.

    client = connect(base_url, key, timeout, connections=1024)

The connections are aiohttp's: the client's default transport takes longer for a request the more
are in flight (benchmarks/transport.py).
"""

import os
import re
import resource
from base64 import b64encode
from urllib.parse import unquote, urlsplit

import openai

from malt_data.errors import EngineDown

_KEEP_ALIVE_S = 4.0
"""Seconds that an unused connection is kept; uvicorn, under most servers, closes it after 5."""
_OTHER_FILES = 256
"""Open files besides the connections: the forest's, libraries, pipes to workers."""


def connect(
    base_url: str | None, key: str, timeout: openai.Timeout, connections: int
) -> openai.AsyncOpenAI:
    """Return a client that never retries; raise EngineDown if parts of it are not installed."""
    _allow_open_files(connections + _OTHER_FILES)
    limits = type(openai.DEFAULT_CONNECTION_LIMITS)(
        max_connections=connections,
        max_keepalive_connections=connections,
        keepalive_expiry=_KEEP_ALIVE_S,
    )
    try:
        transport = openai.DefaultAioHttpClient(limits=limits)
    except RuntimeError as error:  # the client's own way to say that aiohttp is missing
        raise EngineDown(
            "The openai client lacks its aiohttp transport. Run pip install 'malt-data[openai]'."
        ) from error
    base_url, headers = _without_login(base_url)
    return openai.AsyncOpenAI(
        base_url=base_url,
        api_key=key,
        max_retries=0,
        timeout=timeout,
        http_client=transport,
        default_headers=headers,
    )


def _without_login(url: str | None) -> tuple[str | None, dict[str, str]]:
    """Move user and password from a URL to a header: aiohttp refuses them beside the key."""
    login, at, host = (url or "").rpartition("@")
    if url is None or not at or "/" in login.partition("://")[2]:
        return url, {}
    scheme, _, login = login.partition("://")
    encoded = b64encode(unquote(login).encode()).decode()
    return f"{scheme}://{host}", {"Authorization": f"Basic {encoded}"}


def _allow_open_files(count: int) -> None:
    """Raise the soft limit of open files, often 1,024 (macOS: 256), as far as the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def resolve_key(api_key: str | None, *, custom_server: bool) -> str:
    """Return the API key, or a placeholder for a server that needs none."""
    key = (api_key or os.environ.get("OPENAI_API_KEY") or "").strip()
    if not key and not custom_server:
        raise EngineDown(
            "The openai engine needs an API key or a server. Set OPENAI_API_KEY, or pass your own "
            "server, such as --base-url http://localhost:8000/v1."
        )
    if not (key.isascii() and key.isprintable()):  # the HTTP client would quote it in an error
        raise EngineDown("The API key contains invalid characters. Copy it again.")
    return key or "none"


def display_url(url: str) -> str:
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
