"""Run the command line many times with a single start-up: a process that forks itself.

    with Shell() as shell:
        done = shell.run(["stats"], tmp_path)
        done.code, done.out, done.err

The process imports what the commands import but does not use it, so a forked child behaves like a
new `malt-data` process, with its own output, working directory and exit code. Calls that hang are
killed.
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

SECONDS = 60
"""Timeout of a call; the slowest takes a few seconds."""


@dataclass(frozen=True)
class Done:
    """The result of a call. code: None if it hung."""

    code: int | None
    out: str
    err: str


class Shell:
    """See the module."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=self._environment,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, words: Sequence[object], folder: Path) -> Done:
        """Run `malt-data WORDS` in `folder`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([[*map(str, words)], str(folder)]) + "\n")
        self._process.stdin.flush()
        return Done(*json.loads(self._process.stdout.readline()))


def _serve() -> None:
    import duckdb  # noqa: F401
    import openai  # noqa: F401
    import rich.console  # noqa: F401

    import malt_data.builders.build
    import malt_data.cli
    import malt_data.evaluation.evaluate
    import malt_data.exporters.explain
    import malt_data.forests.verify
    import malt_data.publish.push
    import malt_data.storage.query
    import malt_data.trainers.team  # noqa: F401

    for line in sys.stdin:
        words, folder = json.loads(line)
        print(json.dumps(_call(words, folder)), flush=True)  # noqa: T201


def _call(words: list[str], folder: str) -> tuple[int | None, str, str]:
    files = [os.memfd_create(name) for name in ("out", "err")]
    child = os.fork()
    if child == 0:
        _be(words, folder, files)
    code, end = None, time.monotonic() + SECONDS
    while code is None and time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if ended else None
        time.sleep(0.0 if ended else 0.005)
    if code is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    out, err = map(_content, files)
    return code, out, err


def _content(file: int) -> str:
    with open(file, "rb") as opened:
        opened.seek(0)
        return opened.read().decode("utf-8", "surrogateescape")


def _be(words: list[str], folder: str, files: list[int]) -> Any:
    code: Any = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for at, file in enumerate(files, 1):
            os.dup2(file, at)
        os.chdir(folder)
        if "gone" in Path(folder).name:
            Path(folder).rmdir()
        from malt_data.cli import main

        main(words, prog_name="malt-data")
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001 - shown, as Python shows it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
