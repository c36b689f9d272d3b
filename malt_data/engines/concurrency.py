"""Find how many requests a server bears: as many as still add throughput, and none it refuses.

    concurrency = Concurrency()
    concurrency.finished(now, latency, running)    # after each request
    concurrency.refused(now, latency)              # 429, 503 or a timeout
    gate.width = concurrency.width

It measures in turnovers: as many requests as there are slots, all begun at the present width. By
Little's law, their throughput is the mean number in flight over the mean latency.

- At first the width doubles every turnover, until a doubling adds less than `WORTHWHILE`, twice
  (the first turnover after a step flatters it: the server's queue is still filling).
- Then it holds, and now and then tries a quarter more or a fifth less. It takes what is better, and
  the smaller of two that are equal. After attempts in vain it waits longer.
- A refusal cuts the width to what was last known to work, or by a quarter; at most once per
  turnover, as the other requests in flight were sent before the cut. The refused width becomes a
  ceiling, approached in halves of the distance and forgotten after a while.

There is no clock in it and no randomness, so that a simulation can test it in milliseconds.
"""

from dataclasses import dataclass

MOST = 1024
"""The widest that it becomes."""
FIRST = 16
WORTHWHILE = 1.10
"""The least gain in throughput for which to double the width."""
_UP, _DOWN = 1.25, 0.8
_ADOPT_UP, _ADOPT_DOWN = 1.05, 0.99
_CUT = 0.75
_SAMPLES = 64
"""The fewest requests in a measurement while the width is held."""
_SOON, _LATE = 2, 32
"""Measurements between two attempts."""


@dataclass
class _Turnover:
    """Requests begun after `began`: how many ended, their latencies, how many ran beside them."""

    began: float
    count: int = 0
    latency: float = 0.0
    running: int = 0
    full: int = 0

    @property
    def rate(self) -> float:
        """The throughput, by Little's law."""
        return self.running / max(self.latency, 1e-9)

    @property
    def is_full(self) -> bool:
        """Whether the width was what limited it, rather than a lack of requests."""
        return self.full >= 0.8 * self.count


class Concurrency:
    """See the module. `width`: how many requests may be in flight now."""

    def __init__(self, first: int = FIRST, most: int = MOST) -> None:
        self.width = first
        self.most = most
        self._known = 1  # the largest width that has worked for a turnover
        self._ceiling: int | None = None  # the smallest that was refused since
        self._growing = True
        self._rate = 0.0  # at `_base`: the width to which a failed attempt returns
        self._base = first
        self._failed_once = False
        self._patience = _SOON
        self._held = 0
        self._direction = _DOWN  # doubling ends too high rather than too low
        self._turnover: _Turnover | None = None

    def finished(self, now: float, latency: float, running: int) -> None:
        """Record a request that succeeded; running: those in flight, with this one."""
        turnover = self._turnover
        if turnover is None:  # nothing is in flight yet that was begun before
            turnover = self._turnover = _Turnover(now - latency)
        if now - latency < turnover.began:
            return
        turnover.count += 1
        turnover.latency += latency
        turnover.running += running
        turnover.full += running >= self.width
        if turnover.count >= (self.width if self._growing else max(2 * self.width, _SAMPLES)):
            if turnover.is_full:
                self._judge(turnover.rate)
            self._turnover = _Turnover(now)

    def refused(self, now: float, latency: float) -> None:
        """Record a request that the server refused because it has too much to do."""
        turnover = self._turnover
        if turnover is not None and now - latency < turnover.began:
            return  # sent before the last change
        self._ceiling = self.width
        cut = max(1, int(_CUT * self.width))
        if cut <= self._known < self.width:
            self.width = self._known
        else:
            self.width = self._known = cut
        self._growing, self._base, self._rate = False, self.width, 0.0
        self._held, self._direction = 0, _UP
        self._turnover = _Turnover(now)

    def _judge(self, rate: float) -> None:
        """Decide on the next width, after a turnover with this throughput."""
        self._known = max(self._known, self.width)
        if self._growing:
            self._grow(rate)
        elif self.width != self._base:
            self._judge_attempt(rate)
        else:
            self._rate = rate if not self._rate else (self._rate + rate) / 2
            self._held += 1
            if self._held >= self._patience:
                self._attempt()

    def _grow(self, rate: float) -> None:
        if rate >= WORTHWHILE * self._rate:
            self._base, self._rate, self._failed_once = self.width, rate, False
            self.width = min(2 * self.width, self.most)
            self._growing = self.width > self._base
        elif not self._failed_once:
            self._failed_once = True
        else:
            self.width, self._growing, self._rate, self._held = self._base, False, 0.0, 0
            self._failed_once, self._direction, self._patience = False, _DOWN, _SOON

    def _attempt(self) -> None:
        """Try another width for a turnover."""
        self._held = 0
        if self._ceiling is not None:
            step = min((self._ceiling - self.width) // 2, max(1, int((_UP - 1) * self.width)))
            if step < 1:  # all widths below the ceiling are known to work
                self._patience = min(2 * self._patience, _LATE)
                if self._patience == _LATE:
                    self._ceiling = None  # perhaps it has risen
            else:
                self.width += step
        elif self._direction == _UP:
            self.width = min(max(self.width + 1, round(_UP * self.width)), self.most)
        else:
            self.width = max(1, int(_DOWN * self.width))

    def _judge_attempt(self, rate: float) -> None:
        up = self.width > self._base
        gain = _ADOPT_UP if up else _ADOPT_DOWN
        if (
            self._ceiling is not None or rate >= gain * self._rate
        ):  # none was refused, or it is better
            self._growing = up and self._ceiling is None  # the server bears more than it did
            self._base, self._rate, self._patience = self.width, rate, _SOON
            if self._growing:
                self.width = min(2 * self.width, self.most)
                self._growing = self.width > self._base
        else:
            self.width = self._base
            self._patience = min(2 * self._patience, _LATE)
            self._direction = _DOWN if up else _UP
