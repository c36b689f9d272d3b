"""The order in which test files are handed out."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that load a language model first.

    They take longest, and xdist hands out whole files: one that begins last leaves the other
    workers idle.
    """
    long = {item.path for item in items if item.get_closest_marker("model")}
    items.sort(key=lambda item: item.path not in long)
