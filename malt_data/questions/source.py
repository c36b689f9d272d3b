"""An opened source of questions: one stream of raw rows, read only as far as somebody asks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from malt_data.errors import QuestionsError
from malt_data.questions.files import Row

DEV = ("validation", "dev", "val", "valid")
"""Names of one and the same split."""
SPLITS = ("train", *DEV, "test", "eval")
"""The usual splits, in the order in which one is picked where none is asked for."""


@dataclass(frozen=True)
class Source:
    """One split of one source, opened. `lone`: its rows may name their source themselves."""

    source: str
    split: str
    rows: Iterator[Row]
    license: str | None = None
    lone: bool = False
    notes: tuple[str, ...] = ()
    kind: str | None = None
    """What form of answer the source asks for; None: it does not say, its golds decide together."""
    rest: Iterator[Row] = field(default_factory=lambda: iter(()))
    """The rows of its other splits, where they are at hand: they have a say in the kind."""


def pick_split(
    wanted: str | None, available: list[str], where: str, aliases: Mapping[str, str] | None = None
) -> str:
    """Return the split meant by `wanted`; dev, val and validation are one.

    Raises QuestionsError that lists what there is.
    """
    if wanted is None:
        return next((name for name in SPLITS if name in available), available[0])
    names: list[str] = [wanted, *(DEV if wanted in DEV else ())]
    names += [aliases[wanted]] if aliases and wanted in aliases else []
    for name in names:
        if name in available:
            return name
    raise QuestionsError(
        f"{where} has no split {wanted!r}; available: {', '.join(available)}. "
        f"Choose one: --split {available[0]}"
    )
