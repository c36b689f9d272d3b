"""A place for one replica after another, and the orders that the present one has.

host.take(order)                 # the load grows by its samples
await host.send(actor, limit=30) # submits what was taken, in batches, until the actor is lost
"""

import asyncio
from contextlib import suppress

from malt_data.engines import Request
from malt_data.engines.cluster import Actor, Lost
from malt_data.engines.orders import Order

_LONGEST_WAIT = 30.0


class Host:
    """See the module.

    load: samples that are missing. failures: starts in a row that failed. trial: the numbers of the
    suspects that it has; see `orders.py`.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.actor: Actor | None = None
        self.pid = 0
        self.ready = False
        self.width = 1
        self.failures = 0
        self.clear()

    def clear(self) -> None:
        """Forget the orders, which another has from now on."""
        self.orders: dict[int, Order] = {}
        self.trial: set[int] = set()
        self.load = 0
        self._outbox: list[tuple[int, Request]] = []
        self._withdrawn: list[int] = []
        self._wake = asyncio.Event()

    @property
    def backoff(self) -> float:
        """Seconds to wait before the next start: none after a death, then longer each time."""
        return 0.0 if self.failures < 2 else min(_LONGEST_WAIT, 2.0 ** (self.failures - 2))

    def take(self, order: Order) -> None:
        self.orders[order.number] = order
        self.load += len(order.missing)
        self._outbox.append((order.number, order.part()))
        self._wake.set()

    def drop(self, order: Order) -> None:
        del self.orders[order.number]
        self.load -= len(order.missing)

    def withdraw(self, number: int) -> None:
        self._withdrawn.append(number)
        self._wake.set()

    async def send(self, actor: Actor, limit: float) -> None:
        """Submit orders as they come; those that come meanwhile are the next batch."""
        with suppress(Lost):  # which `take` notices too
            while True:
                await self._wake.wait()
                self._wake.clear()
                orders, self._outbox = self._outbox, []
                withdrawn, self._withdrawn = self._withdrawn, []
                await actor.call("submit", orders, withdrawn, limit=limit)
