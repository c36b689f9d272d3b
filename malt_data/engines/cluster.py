"""A Ray cluster, or a Ray of our own on this machine, that runs actors; only here is Ray imported.

Ray is made to keep to itself: it never connects or reports on its own, what it prints goes to
stderr (stdout is for results), and its own instance listens on the loopback address only, in a
folder that is removed afterwards.

    cluster = await Cluster.open(None)        # or "10.0.0.7:6379", or "auto"
    actor = cluster.start(opener, num_gpus=1)
    await actor.call("hello", limit=60)       # raises Lost if the actor dies or is silent
    await cluster.close()
"""

import asyncio
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from malt_data.engines.replica import Open, Replica
from malt_data.errors import EngineDown, SpecError, one_line

T = TypeVar("T")

_CONNECT_SECONDS = 60.0
_START_SECONDS = 120.0
_PROBE_SECONDS = 5.0
_ALIVE_SECONDS = 20.0
_CLOSE_SECONDS = 20.0
_STORE_BYTES = 100 << 20
"""Of shared memory, for values over 100 kB; ours are smaller."""


class Lost(Exception):
    """An actor died or is silent. down: its engine said that it is of no use."""

    def __init__(self, why: str, *, down: bool = False) -> None:
        super().__init__(why)
        self.down = down


@dataclass(frozen=True)
class Actor:
    """A replica in a process of its own, somewhere in the cluster."""

    handle: Any

    async def call(self, method: str, *arguments: object, limit: float) -> Any:
        """Return what a method of the replica returns.

        Raises Lost if the actor is dead, or does not answer within `limit` seconds.
        """
        from ray.exceptions import RayError

        try:
            answer = getattr(self.handle, method).remote(*arguments).future()
            return await asyncio.wait_for(asyncio.wrap_future(answer), limit)
        except TimeoutError:
            raise Lost(f"no answer for {limit:.0f} s") from None
        except RayError as error:
            raise Lost(_why(error)) from None

    async def kill(self) -> None:
        """End its process, for which a stopped one takes Ray some seconds."""
        import ray

        with suppress(ray.exceptions.RayError, TimeoutError):
            await _aside(lambda: ray.kill(self.handle), _CLOSE_SECONDS)


class Cluster:
    """See the module. ours: whether `close` shuts Ray down, which the caller had not started."""

    def __init__(self, *, address: str | None, ours: bool, folder: Path | None = None) -> None:
        self.address = address
        self._ours, self._folder = ours, folder
        self._node = ""
        self._closed = threading.Event()

    @classmethod
    async def open(cls, address: str | None) -> Self:
        """Connect to a cluster, `auto` for the one that runs on this machine; None: start Ray here.

        Ray that already runs in this process is used as it is. Raises EngineDown if there is no
        Ray, or no cluster at the address.
        """
        ray = _import(local=address is None)
        _keep_off_stdout()
        folder = None
        ours = not ray.is_initialized()
        if ours and address is None:  # a short name: Ray's sockets are in it
            folder = Path(tempfile.mkdtemp(prefix="malt-ray-", dir="/tmp"))
        cluster = cls(address=address, ours=ours, folder=folder)
        if folder is not None:
            await _start(ray, folder, cluster._closed)
        elif ours and address is not None:
            await _connect(ray, address)
        cluster._node = ray.get_runtime_context().get_node_id()
        return cluster

    def places(self, num_gpus: float) -> int:
        """Return how many actors fit on the GPUs of the nodes that are alive."""
        free = (node["Resources"].get("GPU", 0) for node in self._nodes())
        return sum(int(gpus / num_gpus + 1e-9) for gpus in free)

    @property
    def gpus(self) -> float:
        """The GPUs of the nodes that are alive."""
        return sum(float(node["Resources"].get("GPU", 0)) for node in self._nodes())

    def start(self, open: Open, *, num_gpus: float, count: int) -> Actor:
        """Start one of `count` actors. Until it is placed and answers, calls wait."""
        import ray

        options: dict[str, Any] = {
            # A death is known at once where Ray does not try to undo it.
            "max_restarts": 0,
            "num_cpus": 0,
            "num_gpus": num_gpus,
            "scheduling_strategy": "SPREAD",
        }
        remote = ray.remote(**options)(Replica)
        sharing = None
        if not num_gpus and "OMP_NUM_THREADS" not in os.environ:
            sharing = -(-count // len(self._nodes()))
        return Actor(remote.remote(open, str(Path.cwd()), sharing))

    async def check(self) -> None:
        """Raise EngineDown if the cluster is gone, or this machine from it: calls would hang."""
        import ray

        try:
            alive = await _aside(self._nodes, _ALIVE_SECONDS)
        except (TimeoutError, OSError, ray.exceptions.RayError) as error:
            raise EngineDown(_gone(one_line(error))) from None
        if all(node["NodeID"] != self._node for node in alive):
            raise EngineDown(_gone("this machine is no longer one of its nodes"))

    async def close(self) -> None:
        """Shut down Ray, if it was started or connected to here."""
        import ray

        if self._ours:
            with suppress(ray.exceptions.RayError, TimeoutError, OSError):
                await _aside(ray.shutdown, _CLOSE_SECONDS)
        self._closed.set()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _nodes(self) -> list[dict[str, Any]]:
        import ray

        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        return [node for node in nodes if node["Alive"]]


def _gone(why: str) -> str:
    return (
        f"The Ray cluster is gone ({why}). Finished trees are kept; run the same command again "
        "when it is back (ray status)."
    )


def _import(*, local: bool) -> Any:
    """Import Ray, with what it reads from the environment when it is imported."""
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a call after its end would start a new cluster
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if local:
        # The setting under which Ray keeps to 127.0.0.1, which is its default on a Mac.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # What a killed replica had started, vLLM's processes, would keep its GPU.
        os.environ.setdefault("RAY_process_group_cleanup_enabled", "true")
    try:
        import ray
    except ImportError as error:
        raise EngineDown(
            f"--replicas and --ray need Ray ({error}). Run: pip install 'malt-data[ray]'"
        ) from error
    return ray


async def _probe(address: str) -> None:
    """Raise EngineDown if nothing listens at `address`: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise SpecError(
            f"--ray takes HOST:PORT as `ray start --head` prints it, or nothing, not {address!r}."
        )
    try:
        opening = asyncio.open_connection(host.strip("[]"), int(port))
        _, writer = await asyncio.wait_for(opening, _PROBE_SECONDS)
    except (OSError, OverflowError, TimeoutError) as error:
        raise EngineDown(
            f"No Ray cluster at {address} ({one_line(error)}). Start one there with "
            "ray start --head, or leave out --ray to use this machine alone."
        ) from None
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _start(ray: Any, folder: Path, closed: threading.Event) -> None:
    """Start Ray on this machine. Its daemons die with the thread, which waits for `closed`."""
    options: dict[str, Any] = {
        "num_cpus": 1,  # Ray starts a process for each in advance, and our actors ask for none
        "include_dashboard": False,
        "object_store_memory": _STORE_BYTES,
        "_temp_dir": str(folder),
    }
    try:
        await _aside(lambda: ray.init("local", **options, **_logging()), _START_SECONDS, closed)
    except Exception as error:  # Ray has no class of its own for most of what goes wrong here
        closed.set()
        raise EngineDown(
            f"Ray did not start on this machine: {one_line(error)}. Run the same command again, or "
            f"see Ray's logs in {folder}/session_latest/logs."
        ) from error


async def _connect(ray: Any, address: str) -> None:
    if address != "auto":
        await _probe(address)
    try:
        await _aside(lambda: ray.init(address, **_logging()), _CONNECT_SECONDS)
    except (TimeoutError, OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        where = "a cluster on this machine" if address == "auto" else f"the cluster at {address}"
        raise EngineDown(
            f"Ray did not connect to {where}: {one_line(error)}. This machine has to be part of "
            "it: ray start --address=HOST:PORT. Ray's version must be the same everywhere."
        ) from None


def _logging() -> dict[str, Any]:
    return {"log_to_driver": _wants_logs(), "logging_level": "ERROR"}


def _wants_logs() -> bool:
    return bool(os.environ.get("VLLM_LOGGING_LEVEL"))


def _keep_off_stdout() -> None:
    """Send what Ray prints for its daemons and for actors to stderr, if it is asked for at all.

    It prints the death of an actor to stdout whatever is set, hence the replaced function.
    """
    from ray._private import worker

    def show(data: dict[str, Any], ignore_prefix: bool = False) -> None:
        if _wants_logs():
            for line in data["lines"]:
                print(f"(ray, pid {data['pid']}) {line}", file=sys.stderr)  # noqa: T201

    worker.print_to_stdstream = show


def _why(error: Exception) -> str:
    """Return the cause of a Ray error, which may come with the traceback of another process."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "Traceback" in str(error) or "ray::" in str(error):
        return one_line(Exception(lines[-1]))
    return "its process or its node died"


async def _aside(work: Callable[[], T], limit: float, until: threading.Event | None = None) -> T:
    """Run a call of Ray that may hang on a thread that nobody waits for at the end.

    until: what the thread waits for after the call. Raises TimeoutError after `limit` seconds.
    """
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - passed on; Ray gives up with SystemExit
            done.set_exception(
                RuntimeError("it gave up") if isinstance(error, SystemExit) else error
            )
        if until is not None:
            until.wait()

    threading.Thread(target=run, name="malt-ray", daemon=True).start()
    try:
        return await asyncio.wait_for(asyncio.wrap_future(done), limit)
    except TimeoutError:
        raise TimeoutError(f"no answer for {limit:.0f} s") from None
