"""What a training costs: wall-clock seconds, tokens, memory. A resumed one adds up.

Every logged step carries the seconds and tokens so far; a checkpoint holds the log, so a training
that goes on from one goes on from its numbers too. Work that a kill lost is in neither: the
figures are those of the steps that made the adapter, evaluations in between included.
"""

import resource
import sys
import time
from typing import Any

Log = list[dict[str, Any]]
_TOKENS = ("num_tokens", "eval_num_tokens")
"""TRL's counts of the training tokens so far; they begin at 0 again when a training is resumed."""


class Clock:
    """Writes the seconds into each logged line, and makes its token counts those of all runs."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._before: dict[str, Any] = {}

    def start(self, log: Log) -> None:
        """Begin to count. `log`: what the checkpoint brings along; empty without one."""
        import torch

        self._began = time.monotonic()
        self._before = last(log)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def stamp(self, line: dict[str, Any]) -> None:
        """Complete a line that was just logged."""
        passed = time.monotonic() - self._began
        line["seconds"] = round(self._before.get("seconds", 0.0) + passed, 3)
        for key in _TOKENS:
            if key in line:
                line[key] += self._before.get("num_tokens", 0)


def last(log: Log) -> dict[str, Any]:
    """Return the last value of everything that was logged."""
    found: dict[str, Any] = {}
    for line in log:
        found.update({key: value for key, value in line.items() if key not in ("step", "epoch")})
    return found


def costs(log: Log) -> dict[str, Any]:
    """Return seconds, tokens, tokens_per_second, peak_memory (bytes) and device of this process.

    peak_memory: what torch had allocated on its GPU in this run; without one, the most that the
    process ever had in memory, which for `--role all` includes the stages before.
    """
    import torch

    final = last(log)
    seconds, tokens = final.get("seconds"), final.get("num_tokens")
    gpu = torch.cuda.is_available()
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage: bytes there, KiB elsewhere
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    other = "mps" if torch.backends.mps.is_available() else "cpu"
    return {
        "seconds": seconds,
        "tokens": None if tokens is None else int(tokens),
        "tokens_per_second": round(tokens / seconds, 1) if tokens and seconds else None,
        "peak_memory": torch.cuda.max_memory_allocated() if gpu else resident,
        "device": torch.cuda.get_device_name() if gpu else other,
    }
