"""Run a command on a terminal of its own, as a user does.

shown = on_terminal(["show", "forest"], tmp_path, rows=24)
shown.text, shown.returncode
"""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 120


@dataclass(frozen=True)
class Shown:
    """What came out on the terminal, stderr included, with plain line ends; and the exit code."""

    text: str
    returncode: int


def on_terminal(
    words: Sequence[object],
    folder: Path,
    *,
    rows: int = 24,
    columns: int = 80,
    env: Mapping[str, str] | None = None,
    typed: bytes = b"",
) -> Shown:
    """Run `malt-data WORDS` on a terminal of this size, on which `typed` has been typed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "malt_data", *map(str, words)], cwd=folder, start_new_session=True,
        stdin=theirs, stdout=theirs, stderr=theirs, env={**kept, "TERM": "xterm", **(env or {})},
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, typed)
    output = b""
    try:
        while piece := os.read(ours, 1 << 16):
            output += piece
    except OSError:  # the last process that had it open has ended
        pass
    finally:
        os.close(ours)
    text = output.decode().replace("\r\n", "\n")
    return Shown(text, process.wait(SECONDS))
