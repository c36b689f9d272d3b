"""What a run took: completions and tokens as they land, then time, speed and memory.

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

_RSS_BYTES = 1 if sys.platform == "darwin" else 1024
"""The unit of getrusage's ru_maxrss."""


@dataclass(kw_only=True)
class Usage:
    """Counted while a run goes on; `stop` adds what is known at its end.

    Tokens: as the engine counted them, 0 where it did not; also of completions whose tree or
    question then failed or was interrupted.
    seconds: wall-clock, without loading the model. tokens_per_second: completion tokens.
    peak_memory: bytes of the largest process, this one or a child that has ended.
    peak_gpu_memory: bytes of tensors on this process's GPUs; None where it has none there, as
      with vLLM, whose model runs in a child.
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
        """Count a completion that landed."""
        self.completions += 1
        self.prompt_tokens += completion.prompt_tokens or 0
        self.completion_tokens += completion.completion_tokens or 0

    def stop(self) -> None:
        """Fill in speed, memory and machine; call it when the engine's children have ended."""
        self.seconds = round(self.seconds, 3)
        if self.completion_tokens and self.seconds:
            self.tokens_per_second = round(self.completion_tokens / self.seconds, 3)
        # The larger, not the sum: a forked child starts with its parent's peak as its own.
        own, children = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
        peak = max(resource.getrusage(who).ru_maxrss for who in (own, children))
        self.peak_memory = peak * _RSS_BYTES
        self.cores = os.cpu_count()
        torch = sys.modules.get("torch")  # an engine that computes with it has imported it
        if torch is None or not torch.cuda.is_available():
            return
        with contextlib.suppress(RuntimeError):  # a GPU that died must not fail a run that is done
            self.gpu = torch.cuda.get_device_name(0)
            devices = range(torch.cuda.device_count())
            self.peak_gpu_memory = sum(map(torch.cuda.max_memory_allocated, devices)) or None

    def usage(self) -> dict[str, Any]:
        """Return the fields above, without those of a subclass."""
        return {field.name: getattr(self, field.name) for field in fields(Usage)}
