"""Run commands in processes that SIGKILL themselves before their k-th file-system change.

They are forked from a server with all imports done, so each takes less than a second.

    ended = start(["relabel", "forest", "--threshold", "0.7"], log, kill_at=5)
    ended.wait()     # -9
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_OPEN = os.open
_CALLS = ("open", "replace", "rename", "unlink", "rmdir", "mkdir", "fsync")
_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(
    ["killing", "malt_data.cli", "malt_data.builders.build", "malt_data.forests.relabel",
     "malt_data.forests.verify", "malt_data.exporters.verify", "malt_data.engines.openai",
     "malt_data.questions.loading", "openai", "duckdb"]
)  # fmt: skip


@dataclass(frozen=True)
class Running:
    """A running command; its output goes to `log`."""

    process: BaseProcess
    log: Path

    def wait(self) -> int:
        """Return the exit code, -9 after a kill."""
        self.process.join(120)
        assert self.process.exitcode is not None, f"it hangs: {self.log.read_text()}"
        return self.process.exitcode

    @property
    def printed(self) -> str:
        return self.log.read_text()

    @property
    def calls(self) -> int:
        """Number of file-system changes, once it has ended by itself."""
        return int(self.log.with_suffix(".calls").read_text())


def start(command: list[object], log: Path, kill_at: int = 0) -> Running:
    """Start `malt-data COMMAND`; kill_at: the change before which to die, 0 for never."""
    arguments = ([str(word) for word in command], str(log), kill_at)
    process = _FORK.Process(target=_main, args=arguments)
    process.start()
    return Running(process, log)


def _main(command: list[str], log: str, kill_at: int) -> None:
    printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    import malt_data.builders.writer as writer
    from malt_data.cli import main

    writer._FLUSH_SECONDS = 0.0  # a part for each tree
    count = [0]
    for name in _CALLS:
        setattr(os, name, _counted(getattr(os, name), count, kill_at))
    try:
        main(command, prog_name="malt-data")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        Path(log).with_suffix(".calls").write_text(str(count[0]))


def _counted(call: Callable[..., Any], count: list[int], kill_at: int) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        if call is not _OPEN or args[1] & os.O_CREAT:  # what is only read changes nothing
            count[0] += 1
        if count[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)

    return counted
