"""On a CPU, a training process keeps the memory that it frees."""

import platform
import subprocess
import sys

import pytest

_FREE = """
import sys
import numpy as np
from malt_data.trainers.training import keep_freed_memory

def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * 4096 // 2**20

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
array = np.ones(2**25)  # 256 MiB
del array
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept_only_if_asked() -> None:
    left = {
        way: int(subprocess.check_output([sys.executable, "-c", _FREE, way], text=True))
        for way in ("keep", "return")
    }
    assert left["keep"] > 200
    assert left["return"] < 50
