"""Run the command line many times with a single start-up: a process that forks itself.

    with Shell() as shell:
        done = shell.run(["stats"], tmp_path)
        done.code, done.out, done.err

    run = malt("stats", cwd=tmp_path)   # the same, from one shell for the whole test process
    run.returncode, run.stdout, run.stderr

    with Shell(imports=TRAINING) as shell:  # for commands that load a model

The process imports what the commands import and uses none of it, so that a forked child is like a
fresh `malt-data`: its own output, working folder, environment, exit code, and death where it hangs.
"""

import atexit
import functools
import importlib
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

LONG = 120
"""The same for `malt`, whose calls do real work on a machine that may be busy."""

TRAINING = (
    *("torch", "transformers.models.llama.modeling_llama", "peft"),
    *("trl.trainer.sft_trainer", "trl.trainer.dpo_trainer", "matplotlib.pyplot"),
)
"""Modules that a command which loads or trains a model imports, in some six seconds."""


@dataclass(frozen=True)
class Done:
    """The result of a call. code: None if it hung."""

    code: int | None
    out: str
    err: str


class Shell:
    """See the module."""

    def __init__(
        self, environment: Mapping[str, str] | None = None, imports: Sequence[str] = ()
    ) -> None:
        """imports: modules to import besides, with what they read from `environment` then."""
        self._environment = environment
        self._imports = imports

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *self._imports],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(
        self,
        words: Sequence[object],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        seconds: float = SECONDS,
    ) -> Done:
        """Run `malt-data WORDS` in `folder`, with the shell's environment or another one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        own = None if environment is None else dict(environment)
        call = [[*map(str, words)], str(folder), own, seconds]
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()
        return Done(*json.loads(self._process.stdout.readline()))


def malt(
    *words: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `malt-data WORDS` as `subprocess.run` would."""
    environment = os.environ if env is None else env  # a test may have changed its own
    done = _shared().run(words, cwd or Path.cwd(), environment, LONG)
    command = ["malt-data", *map(str, words)]
    if done.code is None:
        raise subprocess.TimeoutExpired(command, LONG, done.out, done.err)
    return subprocess.CompletedProcess(command, done.code, done.out, done.err)


@functools.cache
def _shared() -> Shell:
    shell = Shell().__enter__()
    atexit.register(shell.__exit__)
    return shell


def _serve() -> None:
    import duckdb  # noqa: F401
    import httpcore2  # noqa: F401
    import openai  # noqa: F401
    import rich.console  # noqa: F401
    import scipy.optimize  # noqa: F401
    import yaml  # noqa: F401

    import malt_data.builders.build
    import malt_data.cli
    import malt_data.evaluation.evaluate
    import malt_data.exporters.explain
    import malt_data.forests.verify
    import malt_data.publish.push
    import malt_data.storage.query
    import malt_data.trainers.team  # noqa: F401

    # It reads the environment, the Hub's address above all, when it is imported.
    assert "huggingface_hub" not in sys.modules
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(_call(*json.loads(line))), flush=True)  # noqa: T201


def _call(
    words: list[str], folder: str, environment: dict[str, str] | None, seconds: float
) -> tuple[int | None, str, str]:
    files = [os.memfd_create(name) for name in ("out", "err")]
    child = os.fork()
    if child == 0:
        _be(words, folder, environment, files)
    code, end = None, time.monotonic() + seconds
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


def _be(words: list[str], folder: str, environment: dict[str, str] | None, files: list[int]) -> Any:
    code: Any = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for at, file in enumerate(files, 1):
            os.dup2(file, at)
        os.chdir(folder)
        if environment is not None:
            os.environ.clear()
            os.environ.update(environment)
        sys.argv = ["malt-data", *words]
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
