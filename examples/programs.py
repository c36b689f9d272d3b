"""Reward programs by the tests that they pass: a grader of one's own.

    malt-data build --questions examples/programs.jsonl --grader examples/programs.py:grade \\
        --pipeline examples/programs.toml --n 2

A question's `tests` are in its `meta`: lines of Python that fail if the program is wrong. Each runs
in a process of its own, under limits. That stops a program that hangs or eats memory; it is no
sandbox, so run programs of a model that you do not trust in a container without a network.
"""

import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SECONDS = 5
MEMORY = 512 * 2**20

_BLOCK = re.compile(r"```(?:python|py)?\s*\n(.*?)```", re.DOTALL)


def grade(completion: str, question: dict[str, Any]) -> float | None:
    """Return the share of the question's tests that the completion's last program passes."""
    tests = question["meta"]["tests"]
    blocks = _BLOCK.findall(completion)
    if not blocks:
        return 0.0
    return sum(passes(blocks[-1], test) for test in tests) / len(tests)


def passes(program: str, test: str) -> bool:
    """Return whether a test runs to its end after the program: then, and only then, a file exists.

    The exit code would not do, as a program may call `exit(0)` before the test.
    """
    script = f"{program}\n{test}\nopen('passed', 'x').close()\n"
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(
                [sys.executable, "-I", "-c", script],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=SECONDS,
                preexec_fn=_limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return Path(folder, "passed").exists()


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
