"""JSON and TOML that others wrote: settings, manifests, records, the answers of servers.

    facts = read_json(folder / "eval.json")

Whatever is wrong with such a file is an OSError or a ValueError, for the caller to say whose file
it is and what to do: also what Python's parsers answer with a RecursionError, or with minutes of
work.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

_MIB = 2**20
LARGEST_JSON = 64 * _MIB
LARGEST_TOML = 1 * _MIB
DEEPEST = 64
"""Levels of tables and lists."""

# `a.a.a. … = 1`: tomllib takes quadratic time over such a key, minutes for 100 kB
_KEY = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![\w-]){_KEY}(?:[ \t]*+\.[ \t]*+{_KEY}){{{DEEPEST}}}")


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file; raise OSError or ValueError where they cannot be had."""
    text = _read(path, LARGEST_TOML)
    if _LONG_KEY.search(text):
        raise ValueError(f"a key in it has more than {DEEPEST} parts")
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise ValueError(_too_deep()) from None
    _refuse_depth(tables)
    return tables


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raise OSError or ValueError where it cannot be had."""
    found = parse_json(_read(path, LARGEST_JSON))
    if not isinstance(found, dict):
        raise ValueError(f"it holds {type(found).__name__} instead of an object")
    _refuse_depth(found)
    try:  # "\ud800" is JSON, but nothing that could be written or printed again
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half a character (a lone surrogate)") from None
    return found


def parse_json(text: str) -> Any:
    """Return the value that `text` is the JSON of; raise ValueError where it is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(_too_deep()) from None


def _read(path: Path, most: int) -> str:
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is larger than {most // _MIB} MiB")
    return data.decode("utf-8")


def _refuse_depth(document: dict[str, Any]) -> None:
    level: list[Any] = [document]
    for _ in range(DEEPEST):
        level = [
            child
            for value in level
            for child in (
                value.values()
                if isinstance(value, dict)
                else value
                if isinstance(value, list)
                else ()
            )
        ]
        if not level:
            return
    raise ValueError(_too_deep())


def _too_deep() -> str:
    return f"it is nested more than {DEEPEST} levels deep"
