"""An opened source of questions: a stream of raw rows, read lazily."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from malt_data.errors import QuestionsError
from malt_data.questions.files import Row

DEV = ("validation", "dev", "val", "valid")
"""Synonyms for the same split."""
SPLITS = ("train", *DEV, "test", "eval")
"""The usual splits, in order of preference when none is requested."""


@dataclass(frozen=True)
class Source:
    """One split of a source. `single_file`: a row's own `source` field takes precedence."""

    source: str
    split: str
    rows: Iterator[Row]
    license: str | None = None
    single_file: bool = False
    notes: tuple[str, ...] = ()
    kind: str | None = None
    """The kind of its free-form questions; None: inferred from all of its golds."""
    rest: Iterator[Row] = field(default_factory=lambda: iter(()))
    """Rows of the other splits if available, used only to infer the kind."""


def pick_split(
    requested: str | None,
    available: list[str],
    where: str,
    aliases: Mapping[str, str] | None = None,
) -> str:
    """Return the available split that `requested` refers to; dev, val and validation are synonyms.

    Raises QuestionsError, listing the available splits, if there is no such split.
    """
    if requested is None:
        return next((name for name in SPLITS if name in available), available[0])
    names: list[str] = [requested, *(DEV if requested in DEV else ())]
    names += [aliases[requested]] if aliases and requested in aliases else []
    for name in names:
        if name in available:
            return name
    raise QuestionsError(
        f"{where} has no split {requested!r}; available: {', '.join(available)}. "
        f"Choose one: --split {available[0]}"
    )
