"""Read untrusted JSON and TOML: settings, manifests, records, server responses.

    facts = read_json(folder / "eval.json")

Every fault is an OSError or a ValueError, so that the caller can name the file and the next step.
That includes input on which Python's parsers raise RecursionError or take minutes.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from malt_data.errors import SpecError
from malt_data.schemas.model import Model

M = TypeVar("M", bound=Model)

_MIB = 2**20
LARGEST_JSON = 64 * _MIB
LARGEST_TOML = 1 * _MIB
DEEPEST = 64
"""Maximum nesting of tables and lists."""

# `a.a.a. … = 1`: tomllib takes quadratic time over such a key, minutes for 100 kB
_KEY = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![\w-]){_KEY}(?:[ \t]*+\.[ \t]*+{_KEY}){{{DEEPEST}}}")


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file; raise OSError or ValueError if it cannot be read."""
    text = _read(path, LARGEST_TOML)
    if _LONG_KEY.search(text):
        raise ValueError(f"it has a key with more than {DEEPEST} parts")
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise ValueError(_too_deep()) from None
    _refuse_depth(tables)
    return tables


def read_settings_file(path: str | Path, what: str = "config file") -> dict[str, Any]:
    """Return the tables of a TOML file that a user wrote; raise SpecError if it cannot be used.

    what: the sort of file, for the message.
    """
    try:
        return read_toml(Path(path))
    except OSError as error:
        raise SpecError(f"The {what} {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise SpecError(f"The {what} {path} is not valid TOML: {error}.") from None


def read_settings(path: str | Path, what: str, model: type[M]) -> M:
    """Return a TOML file that a user wrote as a `model`; raise SpecError, naming it, if invalid."""
    values = read_settings_file(path, what)
    try:
        return model.model_validate(values)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raise OSError or ValueError if it cannot be read."""
    if path.is_fifo():  # reading one would block forever
        raise ValueError("it is not a regular file")
    value = parse_json(_read(path, LARGEST_JSON))
    if not isinstance(value, dict):
        raise ValueError(f"it contains a {type(value).__name__} instead of an object")
    _refuse_depth(value)
    try:  # "\ud800" is valid JSON but cannot be written or printed again
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it contains a lone surrogate (half a character)") from None
    return value


def parse_json(text: str) -> Any:
    """Parse JSON; raise ValueError if it is invalid or too deeply nested."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(_too_deep()) from None


def _read(path: Path, limit: int) -> str:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit // _MIB} MiB")
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
