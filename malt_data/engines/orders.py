"""Requests on their way through replicas that may die, and who is to blame when one does.

A request is an order until each of its samples has arrived. When a replica is lost, what is missing
of its orders goes to others. An order that kills whatever runs it must not take the whole cluster
along, and its neighbours must not fail with it: orders that were lost twice without a sample are
tried in groups, a group to a replica, halved at each further loss, until the culprit is alone.

    order = Order(0, request)
    order.part()                   # the request, for the samples that are missing
    order.deliver(0, completion)
    blamed = blame(orders)         # the groups to try; an order that is to blame has failed
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from malt_data.engines import Completion, Request
from malt_data.engines.replica import Sampled
from malt_data.errors import EngineError

_LOSSES = 3
"""An order fails when it has taken so many replicas with it, the last one alone."""

Arrival = tuple[int, Completion] | Exception


@dataclass(eq=False)
class Order:
    """A request and what has arrived of it.

    sent: the sample that each seed last sent stands for. losses: replicas lost since it last
    brought a sample. moved: a sample has arrived from the replica that has it now.
    """

    number: int
    request: Request
    arrived: "asyncio.Queue[Arrival]" = field(default_factory=asyncio.Queue)
    missing: set[int] = field(default_factory=set)
    sent: tuple[int, ...] = ()
    losses: int = 0
    moved: bool = False
    closed: bool = False

    def __post_init__(self) -> None:
        self.missing = set(range(len(self.request.seeds)))

    def part(self) -> Request:
        """Return the request for the samples that are missing."""
        self.moved, self.sent = False, tuple(sorted(self.missing))
        return replace(self.request, seeds=tuple(self.request.seeds[i] for i in self.sent))

    def deliver(self, event: Sampled) -> bool:
        """Pass a sample on; return whether it was still missing."""
        sample = self.sent[event.sample]
        if sample not in self.missing:
            return False
        self.moved, self.losses = True, 0
        self.arrived.put_nowait((sample, event.completion))
        self.missing.remove(sample)
        return True

    def fail(self, error: Exception) -> None:
        """Let whoever waits for it raise `error`."""
        self.closed = True
        self.arrived.put_nowait(error)


def blame(orders: Sequence[Order], why: str) -> tuple[list[Order], list[list[Order]]]:
    """Return those of a lost replica's orders that may go anywhere, and the groups to try.

    An order that was alone when it took its third replica with it fails.
    """
    free = [order for order in orders if order.moved]
    suspects = [order for order in orders if not order.moved]
    for order in suspects:
        order.losses += 1
    if len(suspects) == 1 and suspects[0].losses >= _LOSSES:
        suspects[0].fail(
            EngineError(f"A request took {suspects[0].losses} replicas with it, the last: {why}.")
        )
        return free, []
    free += [order for order in suspects if order.losses == 1]
    again = [order for order in suspects if order.losses > 1]
    half = (len(again) + 1) // 2
    return free, [group for group in (again[:half], again[half:]) if group]
