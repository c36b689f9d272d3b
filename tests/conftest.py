"""Which test files are collected, and the order in which they are handed out."""

from importlib.util import find_spec

import pytest

collect_ignore_glob = (
    []
    if find_spec("torch")
    else [  # `make test-python` installs none: for most Pythons only builds of several GB exist
        "engines/test_transformers_engine.py",
        "engines/test_vllm_engine.py",
        "evaluation/test_served.py",
        "exporters/test_fit.py",
        "exporters/test_trl.py",
        "trainers/*",
    ]
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that load a language model first.

    They take longest, and xdist hands out whole files: one that begins last leaves the other
    workers idle.
    """
    long = {item.path for item in items if item.get_closest_marker("model")}
    items.sort(key=lambda item: item.path not in long)
