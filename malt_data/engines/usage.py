"""Measure a run: completions and tokens as they arrive, then time, speed and memory.

usage = Usage()
usage.add(completion)                        # each one
usage.seconds = time.monotonic() - started
usage.stop()                                 # usage.tokens_per_second, usage.peak_memory
"""

import contextlib
import os
import resource
import sys
from dataclasses import dataclass, fields
from typing import Any

from malt_data.engines import Completion

RSS_BYTES = 1 if sys.platform == "darwin" else 1024
"""The unit of getrusage's ru_maxrss."""


@dataclass(kw_only=True)
class Usage:
    """Counts completions during a run; `stop` adds what is known only at the end.

    Tokens: as reported by the engine, 0 if it reports none. Completions of trees or questions that
      failed or were interrupted count too.
    seconds: wall-clock, excluding model loading. tokens_per_second: completion tokens.
    peak_memory: bytes of the largest process, this one or a child that has ended.
    peak_gpu_memory: bytes of tensors allocated on GPUs by this process; None if there are none, as
      with vLLM, whose model runs in a child process.
    cores, gpu: of this machine.
    """

    completions: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    tokens_per_second: float | None = None
    peak_memory: int | None = None
    peak_gpu_memory: int | None = None
    cores: int | None = None
    gpu: str | None = None

    def add(self, completion: Completion) -> None:
        """Count a completion."""
        self.completions += 1
        self.prompt_tokens += completion.prompt_tokens or 0
        self.completion_tokens += completion.completion_tokens or 0

    def stop(self) -> None:
        """Fill in speed, memory and machine; call it after child processes have ended."""
        self.seconds = round(self.seconds, 3)
        if self.completion_tokens and self.seconds:
            self.tokens_per_second = round(self.completion_tokens / self.seconds, 3)
        # The larger, not the sum: a forked child starts with its parent's peak as its own.
        scopes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        peak = max(resource.getrusage(scope).ru_maxrss for scope in scopes)
        self.peak_memory = peak * RSS_BYTES
        self.cores = os.cpu_count()
        torch = sys.modules.get("torch")  # already imported if the engine uses it
        if torch is None or not torch.cuda.is_available():
            return
        with contextlib.suppress(RuntimeError):  # a failing GPU must not fail a finished run
            self.gpu = torch.cuda.get_device_name(0)
            devices = range(torch.cuda.device_count())
            self.peak_gpu_memory = sum(map(torch.cuda.max_memory_allocated, devices)) or None

    def usage(self) -> dict[str, Any]:
        """Return the fields above, without those of a subclass."""
        return {field.name: getattr(self, field.name) for field in fields(Usage)}
