"""Measure the cost of a training run, across resumes: wall-clock seconds, tokens, memory.

Every logged step records the seconds and tokens so far. Checkpoints contain the log, so a resumed
run continues from those numbers. Steps lost to a kill are not counted: the cost is that of the
steps that led to the adapter, including evaluations.
"""

import resource
import time
from typing import Any

from malt_data.engines.usage import RSS_BYTES

Log = list[dict[str, Any]]
_TOKENS = ("num_tokens", "eval_num_tokens")
"""TRL's counts of training tokens so far, which restart from 0 when a run is resumed."""


class CostLogger:
    """Adds seconds to each logged line and makes its token counts cumulative over resumed runs."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._before: dict[str, Any] = {}

    def start(self, log: Log) -> None:
        """Start counting. log: that of the checkpoint; empty for a new run."""
        import torch

        self._started = time.monotonic()
        self._before = last_values(log)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def update(self, line: dict[str, Any]) -> None:
        """Add the costs so far to a line that was just logged."""
        elapsed = time.monotonic() - self._started
        line["seconds"] = round(self._before.get("seconds", 0.0) + elapsed, 3)
        for key in _TOKENS:
            if key in line:
                line[key] += self._before.get("num_tokens", 0)


def last_values(log: Log) -> dict[str, Any]:
    """Return the last value of every logged metric."""
    values: dict[str, Any] = {}
    for line in log:
        values.update({key: value for key, value in line.items() if key not in ("step", "epoch")})
    return values


def costs(log: Log) -> dict[str, Any]:
    """Return seconds, tokens, tokens_per_second, peak_memory (bytes) and device of this process.

    peak_memory: allocated by torch on the GPU in this run; without a GPU, the peak resident memory
    of the process, which for `--role all` includes earlier stages.
    """
    import torch

    final = last_values(log)
    seconds, tokens = final.get("seconds"), final.get("num_tokens")
    gpu = torch.cuda.is_available()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_BYTES
    fallback = "mps" if torch.backends.mps.is_available() else "cpu"
    return {
        "seconds": seconds,
        "tokens": None if tokens is None else int(tokens),
        "tokens_per_second": round(tokens / seconds, 1) if tokens and seconds else None,
        "peak_memory": torch.cuda.max_memory_allocated() if gpu else resident,
        "device": torch.cuda.get_device_name() if gpu else fallback,
    }
