"""Servers in simulated time, for tests and benchmarks of the concurrency: no sockets, no clock.

    outcome = simulate(saturating(200), requests=20_000)           # adaptive
    outcome = simulate(saturating(200), requests=20_000, width=64)  # fixed
    outcome.seconds, outcome.refused

A client sends requests while fewer are in flight than its width. A server says how long one takes
that arrives beside k others, or refuses it (429); the client then waits as the engine does, in its
slot, and queues again.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from malt_data.engines.concurrency import Concurrency

BACKOFF_S = 0.5


@dataclass
class Server:
    """Serves `slots` requests at a time, in order of arrival; refuses those above `most`.

    seconds: mean time that a request is served for. spread: its relative standard deviation
    (gamma). thrash: how much slower all get for each request that has to wait, relative to `slots`.
    """

    slots: int
    most: int | None = None
    seconds: float = 1.0
    spread: float = 0.5
    thrash: float = 0.0


@dataclass
class Outcome:
    """How a run went. widths: (time, width) at each change."""

    seconds: float
    refused: int
    requests: int
    widths: list[tuple[float, int]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def saturating(slots: int, **settings: float) -> Server:
    return Server(slots, **settings)  # type: ignore[arg-type]


def refusing(most: int) -> Server:
    return Server(most, most)


def simulate(
    server: Server,
    requests: int,
    width: int | None = None,
    seed: int = 0,
    change: Callable[[int, Server], None] = lambda done, server: None,
) -> Outcome:
    """Send `requests` requests; width: fixed, None: adaptive. change: called after each."""
    chance = random.Random(seed)
    adaptive = Concurrency() if width is None else None
    outcome = Outcome(0.0, 0, requests)
    now, serial = 0.0, 0
    events: list[tuple[float, int, str, float, int]] = []  # time, serial, kind, sent, attempt
    queue: deque[tuple[float, int]] = deque()  # sent, attempt: waiting within the server
    ready: list[int] = []  # attempts of requests that wait for a slot again
    running = served = done = begun = 0

    def later(seconds: float, kind: str, sent: float, attempt: int) -> None:
        nonlocal serial
        serial += 1
        heapq.heappush(events, (now + seconds, serial, kind, sent, attempt))

    def serve(sent: float, attempt: int) -> None:
        nonlocal served
        served += 1
        shape = 1 / server.spread**2
        seconds = server.seconds * chance.gammavariate(shape, 1 / shape)
        seconds *= 1 + server.thrash * len(queue) / server.slots
        later(seconds, "end", sent, attempt)

    def send(attempt: int) -> None:
        if server.most is not None and served >= server.most:
            later(0.01, "refused", now, attempt)
        elif served < server.slots:
            serve(now, attempt)
        else:
            queue.append((now, attempt))

    while done < requests:
        limit = adaptive.width if adaptive else width or 0
        while running < limit and (ready or begun < requests):
            running += 1
            if ready:
                send(ready.pop())
            else:
                begun += 1
                send(1)
        now, _, kind, sent, attempt = heapq.heappop(events)
        before = adaptive.width if adaptive else 0
        if kind == "end":
            served -= 1
            done += 1
            if queue and served < server.slots:
                serve(*queue.popleft())
            if adaptive:
                adaptive.finished(now, now - sent, running)
            running -= 1
            change(done, server)
        elif kind == "refused":
            outcome.refused += 1
            if adaptive:
                adaptive.refused(now, now - sent)
            wait = min(BACKOFF_S * 2.0 ** (attempt - 1), 30.0) + chance.random() * BACKOFF_S
            later(wait, "again", sent, attempt + 1)
        else:
            running -= 1
            ready.append(attempt)
        if adaptive and adaptive.width != before:
            outcome.widths.append((now, adaptive.width))
    outcome.seconds = now
    return outcome
