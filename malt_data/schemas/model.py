"""The base of all validated models: immutable, no unknown keys, and raises SpecError.

>>> class Size(Model):
...     n: int = Field(ge=1)
>>> Size(n=0)
Traceback (most recent call last):
malt_data.errors.SpecError: n: Input should be greater than or equal to 1 (got 0)
"""

import difflib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from malt_data.errors import SpecError

__all__ = ["Field", "Model", "require_storable"]


class Model(BaseModel):
    """Raises SpecError, naming each invalid key and value, instead of pydantic's ValidationError.

    This also applies to `model_validate` and to nested models.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    if not TYPE_CHECKING:  # for type checkers the fields are the signature

        def __init__(self, /, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise SpecError(_explain(error, type(self).model_fields)) from None

        def __setattr__(self, name: str, value: Any) -> None:
            raise SpecError(f"{type(self).__name__} is immutable: use updated({name}=…) for a copy")

        @classmethod
        def model_validate(cls, values: Any, **options: Any) -> Self:
            try:
                return super().model_validate(values, **options)
            except ValidationError as error:  # not even a mapping
                raise SpecError(_explain(error, cls.model_fields)) from None

    def updated(self, **changes: Any) -> Self:
        """Return a copy with some values changed; raise SpecError if they are invalid."""
        return type(self)(**{name: getattr(self, name) for name in self.model_fields_set} | changes)


def require_storable(table: dict[str, Any]) -> None:
    """Raise ValueError unless a table of settings can be stored as JSON."""
    try:
        json.dumps(table, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("only numbers, strings, booleans, lists and tables") from None


def _explain(error: ValidationError, known: Iterable[str]) -> str:
    """Return the validation errors on one line: `n: Input should be ≥ 1 (got 0); …`."""
    problems = []
    for issue in error.errors(include_url=False):
        key = ".".join(str(step) for step in issue["loc"])
        if issue["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, known, n=1)
            problems.append(
                f"unknown setting '{key}'" + (f", did you mean '{near[0]}'?" if near else "")
            )
        else:
            # These may contain a key.
            show_input = key and key not in ("base_url", "engine_options", "sampling")
            got = f" (got {issue['input']!r})" if show_input else ""
            problems.append(f"{key + ': ' if key else ''}{issue['msg']}{got}")
    return "; ".join(problems)
