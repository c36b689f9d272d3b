"""Replicas of an engine as Ray actors, which together are one engine.

The caller keeps everything that must not be lost; a replica only samples. The requests of a tree go
to the replica that had its first, where their common prefix is cached. A replica that dies, is
silent or leaves with its node is replaced, and what it had not yet returned is sent to others; a
sample that has arrived is never asked for again. So a forest is the same however many die.

    engine = await Replicas.open(partial(open_engine, spec, adapters), count=4)
    async for sample, completion in engine.complete(request): ...
    await engine.close()
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Self

from malt_data import __version__
from malt_data.engines import Completion, Gate, Request
from malt_data.engines.cluster import Actor, Cluster, Lost
from malt_data.engines.dispatch import Dispatcher
from malt_data.engines.host import Host
from malt_data.engines.orders import Order
from malt_data.engines.replica import Ended, Event, Failure, Open, Ready, Sampled
from malt_data.errors import EngineDown, EngineError

_GATHER_SECONDS = 0.05
"""How long a replica gathers samples for one answer; the driver then costs as little as none."""
_PLACE_SECONDS = 60.0
"""How long Ray may take to find a place for a replica and start its process."""
_CHECK_SECONDS = 5.0
_STOP_SECONDS = 10.0
_PATIENCE = 5
"""Starts in a row that may fail, of each replica, before none is expected to succeed."""


class Replicas:
    """An `Engine`; see the module. It works in the event loop that opened it."""

    model: str
    gate: Gate

    def __init__(
        self,
        cluster: Cluster,
        open: Open,
        count: int,
        *,
        num_gpus: float = 0.0,
        silence: float = 30.0,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """silence: seconds without a sign of life after which a replica is replaced."""
        self._cluster, self._opener, self._num_gpus = cluster, open, num_gpus
        self._silence, self._note = silence, note
        self._numbers = itertools.count()
        self._hosts = [Host(number) for number in range(1, count + 1)]
        self._dispatcher = Dispatcher(self._hosts)
        self._orders: dict[int, Order] = {}
        self._first: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._down: Exception | None = None
        self._sampled = False
        self._losses = 0  # since the last sample of any replica
        self._tasks: set[asyncio.Task[None]] = set()
        self._kills: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(
        cls,
        open: Open,
        *,
        count: int | None = None,
        address: str | None = None,
        num_gpus: float | None = None,
        silence: float = 30.0,
        note: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Return as soon as one replica is ready; the others join when they are.

        count: None for as many as the cluster has room for. address: of a Ray cluster, `auto` for
        the one on this machine, None for a Ray of its own. num_gpus: for each replica; None: one,
        or none if the cluster has none. Raises EngineDown if there is no cluster, if it lacks the
        GPUs, or if the engine cannot be opened.
        """
        cluster = await Cluster.open(address)
        try:
            gpus = _gpus_each(cluster, num_gpus)
            count = _count(cluster, count, gpus)
            engine = cls(cluster, open, count, num_gpus=gpus, silence=silence, note=note)
        except BaseException:
            await cluster.close()
            raise
        note(f"Starting {count} replica{'s' * (count > 1)} on Ray.")
        try:
            await engine._start()
        except BaseException:
            await engine.close()
            raise
        return engine

    async def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Yield (sample index, completion) for each seed, in order of completion.

        Raises EngineError if a request fails or takes three replicas with it, EngineDown if the
        cluster is gone or no replica can be started.
        """
        if self._down is not None:
            raise self._down
        order = Order(next(self._numbers), request)
        self._orders[order.number] = order
        self._dispatcher.add(order)
        try:
            for _ in request.seeds:
                arrival = await order.arrived.get()
                if isinstance(arrival, Exception):
                    raise arrival
                yield arrival
        finally:
            self._withdraw(order)

    def has_room(self) -> bool:
        """Return whether a replica is below its width; raise EngineDown if none can be."""
        if self._down is not None:
            raise self._down
        return any(host.ready and host.load < host.width for host in self._hosts)

    async def close(self) -> None:
        """Close the engines, end the actors, and shut down Ray if it was started here."""
        self._down = self._down or EngineDown("The engine was closed.")
        actors = [host.actor for host in self._hosts if host.ready and host.actor]
        await asyncio.gather(*(_end(actor) for actor in actors))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*self._kills)
        await self._cluster.close()

    async def _start(self) -> None:
        for work in (self._watch(), *map(self._keep, self._hosts)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._on_done)
        ready = await self._first
        self.model = ready.model
        self.gate = _Room(self, ready.width * len(self._hosts))

    def _on_done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._stop(error)

    async def _watch(self) -> None:
        """Raise EngineDown when the cluster is gone, since calls would wait for it for ever."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            await self._cluster.check()

    async def _keep(self, host: Host) -> None:
        """Run one replica after the other."""
        while self._down is None:
            try:
                await self._serve(host)
            except Lost as lost:
                self._on_lost(host, lost)
            await asyncio.sleep(host.backoff)

    async def _serve(self, host: Host) -> None:
        """Run a replica until it is lost."""
        actor = host.actor = self._cluster.start(
            self._opener, num_gpus=self._num_gpus, count=len(self._hosts)
        )
        sender: asyncio.Task[None] | None = None
        try:
            await self._greet(host, actor)
            await actor.call("start", limit=self._silence)
            heartbeat = self._silence / 4
            while True:
                taken = actor.call("take", heartbeat, _GATHER_SECONDS, limit=self._silence)
                for event in await taken:
                    self._on_event(host, event)
                if host.ready and sender is None:
                    sender = asyncio.create_task(host.send(actor, self._silence))
        finally:
            host.ready, host.actor = False, None
            if sender is not None:
                sender.cancel()
            kill = asyncio.create_task(actor.kill())
            self._kills.add(kill)
            kill.add_done_callback(self._kills.discard)

    async def _greet(self, host: Host, actor: Actor) -> None:
        """Wait until it runs; raise EngineDown if another malt-data is installed there."""
        try:
            version, machine, host.pid = await actor.call("hello", limit=_PLACE_SECONDS)
        except Lost as lost:
            raise Lost(f"Ray did not start it: {lost}; ray status shows what is free") from None
        if version != __version__:
            raise EngineDown(
                f"{machine} has malt-data {version}, this machine {__version__}. Run there: "
                f"pip install malt-data=={__version__}"
            )

    def _on_event(self, host: Host, event: Event) -> None:
        match event:
            case str():
                if host is self._hosts[0]:  # all say the same
                    self._note(event)
            case Ready():
                host.ready, host.width, host.failures = True, event.width, 0
                if not self._first.done():
                    self._first.set_result(event)
                self._dispatcher.dispatch()
            case Failure():
                if event.of == "code":
                    raise RuntimeError(f"A replica could not open its engine:\n{event.text}")
                raise Lost(event.text, down=True)
            case Sampled():
                self._on_sample(host, event)
            case Ended():
                self._on_end(host, event)

    def _on_sample(self, host: Host, event: Sampled) -> None:
        order = host.orders.get(event.number)
        if order is None:  # withdrawn
            return
        self._sampled, self._losses = True, 0
        if order.deliver(event):
            host.load -= 1
            self._freed()
        self._dispatcher.end_trial(host, order)

    def _on_end(self, host: Host, event: Ended) -> None:
        order = host.orders.get(event.number)
        if order is None:
            return
        failure = event.failure
        if failure is not None and failure.of == "engine":
            raise Lost(failure.text, down=True)
        host.drop(order)
        self._freed()
        self._dispatcher.end_trial(host, order)
        if failure is not None and failure.of == "code":
            order.fail(RuntimeError(f"An engine failed in a replica:\n{failure.text}"))
        elif failure is not None or order.missing:
            text = failure.text if failure else "The engine returned too few samples."
            order.fail(EngineError(text))

    def _on_lost(self, host: Host, lost: Lost) -> None:
        """Send what a lost replica had not returned elsewhere, or stop if there is nobody left."""
        self._losses += 1
        host.failures += 1
        orders = [order for order in host.orders.values() if not order.closed]
        host.clear()
        if lost.down and not self._sampled:
            return self._stop(EngineDown(str(lost)))
        if self._is_hopeless():
            return self._stop(EngineDown(f"No replica works any more, most recently: {lost}."))
        self._note(f"Replica {host.number} is lost ({lost}); starting it again.")
        return self._dispatcher.add(*orders, lost=str(lost))

    def _is_hopeless(self) -> bool:
        if self._losses > 2 * _PATIENCE * (1 + len(self._hosts)):
            return True
        return all(host.failures >= _PATIENCE for host in self._hosts)

    def _stop(self, error: Exception) -> None:
        """No request can succeed: let all fail."""
        self._down = self._down or error
        for order in self._orders.values():
            order.fail(self._down)
        if not self._first.done():
            self._first.set_exception(self._down)
        self._freed()

    def _withdraw(self, order: Order) -> None:
        """Forget an order; abort what still runs of it."""
        order.closed = True
        del self._orders[order.number]
        for host in self._hosts:
            if order.number in host.orders:
                host.drop(order)
                host.withdraw(order.number)
                self._dispatcher.end_trial(host, order)
        self._freed()

    def _freed(self) -> None:
        if isinstance(gate := getattr(self, "gate", None), _Room):
            gate.wake()


class _Room(Gate):
    """Has room when some replica has, however much waits for the others."""

    def __init__(self, replicas: Replicas, width: int) -> None:
        super().__init__(width)
        self._replicas = replicas

    async def has_room(self) -> None:
        """Wait until a replica is below its width; raise EngineDown if none will be."""
        while not self._replicas.has_room():
            free: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._room_waiters.append(free)
            await free

    def wake(self) -> None:
        """Let those who wait look again."""
        for free in self._room_waiters:
            if not free.done():
                free.set_result(None)
        self._room_waiters.clear()


async def _end(actor: Actor) -> None:
    """Let an engine end the processes that it has started."""
    with suppress(Lost):
        await actor.call("stop", limit=_STOP_SECONDS)


def _gpus_each(cluster: Cluster, wanted: float | None) -> float:
    """Return the GPUs of a replica; a cluster without any runs them on CPUs."""
    if wanted is None:
        return 1.0 if cluster.gpus else 0.0
    return wanted


def _count(cluster: Cluster, wanted: int | None, gpus: float) -> int:
    """Return the number of replicas; raise EngineDown where Ray would wait for GPUs for ever."""
    if not gpus:
        return wanted or 1
    places = cluster.places(gpus)
    if not places or (wanted or 0) > places:
        raise EngineDown(
            f"{wanted or 1} replicas of {gpus:g} GPUs do not fit: Ray has {cluster.gpus:g} GPUs, "
            f"room for {places}. Lower --replicas or num_gpus in [engine], or add nodes first."
        )
    return wanted or places
