"""Which replica gets which order.

Those of a tree go to one replica, which has their common prefix in its cache. Orders that may have
killed a replica are tried apart from all others, a group to a replica; see `orders.py`.

    dispatcher = Dispatcher(hosts)
    dispatcher.add(order)                     # goes to a replica, or waits until one is ready
    dispatcher.add(*orders, lost="it died")   # what a lost replica had: blamed, and sent again
"""

from collections import OrderedDict, deque
from collections.abc import Sequence

from malt_data.engines.host import Host
from malt_data.engines.orders import Order, blame


class Dispatcher:
    """See the module."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = hosts
        self._waiting: list[Order] = []
        self._trials: deque[list[Order]] = deque()
        self._homes: OrderedDict[str, Host] = OrderedDict()

    def add(self, *orders: Order, lost: str | None = None) -> None:
        """Send orders. lost: how the replica that had them was lost."""
        if lost is None:
            self._waiting += orders
        else:
            free, groups = blame(orders, lost)
            self._waiting += free
            self._trials += groups
        self.dispatch()

    def dispatch(self) -> None:
        """Send what waits to replicas that are ready."""
        ready = [host for host in self._hosts if host.ready]
        for host in sorted(ready, key=lambda host: host.load):
            while self._trials and not host.trial:
                group = [order for order in self._trials.popleft() if not order.closed]
                host.trial = {order.number for order in group}
                for order in group:
                    host.take(order)
        # What dies with a trial must be of the trial: others wait where no replica is without.
        calm = [host for host in ready if not host.trial]
        if not calm:
            return
        waiting, self._waiting = self._waiting, []
        for order in waiting:
            if not order.closed:
                self._home(order.request.tree, calm).take(order)

    def end_trial(self, host: Host, order: Order) -> None:
        """Note that an order has brought a sample or ended: it is on trial no more."""
        if order.number in host.trial:
            host.trial.remove(order.number)
            if not host.trial and (self._trials or self._waiting):
                self.dispatch()

    def _home(self, tree: str, ready: Sequence[Host]) -> Host:
        """Return the replica of a tree: at first the one with the least to do."""
        home = self._homes.get(tree)
        if home is None or home not in ready:
            home = min(ready, key=lambda host: host.load / host.width)
        if tree:
            self._homes[tree] = home
            self._homes.move_to_end(tree)
            if len(self._homes) > max(1024, 16 * sum(host.width for host in self._hosts)):
                self._homes.popitem(last=False)
        return home
