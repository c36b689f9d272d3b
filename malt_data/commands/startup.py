"""Start the commands that look something up in half the time.

Most of it goes into imports. pyarrow imports pandas (0.3 s) when it is first handed a Python value,
to recognise pandas' own objects, and Python's garbage collector walks over all that was loaded.

    start_quickly()     # in sql, show, explain and stats, which hand pyarrow no such objects
"""

import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from threading import Thread
from types import ModuleType

_GARBAGE = 100_000
"""Objects between two collections, in place of 700: these commands make few circles."""


def import_meanwhile(name: str) -> None:
    """Import a module in a thread, while DuckDB or pyarrow work and let other threads run."""
    Thread(target=import_module, args=(name,), daemon=True).start()


class _WithoutPandas(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not needed here", name=name)
        return None


def start_quickly() -> None:
    """Let pyarrow go without pandas. What converts to pandas still works, and imports it then."""
    gc.set_threshold(_GARBAGE)
    if "pandas" in sys.modules:
        return
    without = _WithoutPandas()
    sys.meta_path.insert(0, without)
    try:
        import pyarrow as pa

        pa.scalar(True)  # it looks for pandas once, here
    finally:
        sys.meta_path.remove(without)
