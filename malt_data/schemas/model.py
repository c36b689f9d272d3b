"""The base of every checked model: frozen, strict about keys, and its errors are ours.

>>> class Size(Model):
...     n: int = Field(ge=1)
>>> Size(n=0)
Traceback (most recent call last):
malt_data.errors.SpecError: n: Input should be greater than or equal to 1 (got 0)
"""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from malt_data.errors import SpecError

__all__ = ["Field", "Model"]


class Model(BaseModel):
    """Raises SpecError, which names each wrong key and value, where pydantic would raise its own.

    So does `model_validate`, for a model that lies within another too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    if not TYPE_CHECKING:  # for type checkers the fields are the signature

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise SpecError(_explained(error)) from None


def _explained(error: ValidationError) -> str:
    """Return what pydantic found as one line: `n: Input should be ≥ 1 (got 0); …`."""
    found = []
    for issue in error.errors(include_url=False):
        key = ".".join(str(step) for step in issue["loc"])
        if issue["type"] == "extra_forbidden":
            found.append(f"unknown setting '{key}'")
        else:
            shown = key and key != "base_url"  # it may hold a key
            got = f" (got {issue['input']!r})" if shown else ""
            found.append(f"{key + ': ' if key else ''}{issue['msg']}{got}")
    return "; ".join(found)
