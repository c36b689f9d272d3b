"""Drop rows that do not fit the model, and choose a `max_length` that truncates none of the rest.

TRL truncates rows longer than `max_length`, even in the middle of a completion, and computes the
loss on the wrong tokens if the prompt is not a prefix. Such rows are dropped and counted before the
first step.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from malt_data.errors import SpecError, TrainError
from malt_data.exporters.fit import SIDES, Fit, context_of, least
from malt_data.exporters.selection import UNFIT
from malt_data.schemas.exports import VARIABLES
from malt_data.trainers.data import Data

if TYPE_CHECKING:
    import datasets

_BATCH = 512
_STEP = 64
"""`max_length` is rounded up to a multiple of this."""


def fit_rows(
    data: Data,
    tokenizer: Any,
    config: Any,
    max_length: int | None,
    note: Callable[[str], None],
) -> tuple[Data, dict[str, Any]]:
    """Return the data without the rows that do not fit, and facts for the record.

    config: that of the base model, with its context length. max_length: from `[trainer]`; None: the
    length of the longest row that fits the model. The facts are `rows` (to train on), `max_length`
    and `left_out` (split → reason → rows). Raises TrainError if no row to train on remains,
    SpecError if `max_length` is invalid, ExportError for chats if the model has no chat template.
    """
    if max_length is not None and (type(max_length) is not int or max_length < 1):
        raise SpecError(f"[trainer] max_length must be an integer ≥ 1 (got {max_length!r})")
    fit = Fit(tokenizer, least(max_length, context_of(tokenizer, config)))
    splits: dict[str, datasets.Dataset | None] = {}
    left_out: dict[str, dict[str, int]] = {}
    longest = 0
    for split, rows in (("train", data.train), ("validation", data.validation)):
        if rows is None:
            continue
        kept, split_longest, counts, examples = _measure(rows, fit)
        longest = max(longest, split_longest)
        left_out[split] = {reason: counts[reason] for reason in UNFIT}
        splits[split] = rows.select(kept) if kept else None
        if counts:
            note(_sentence(data.config, split, len(rows), counts, examples, fit.limit))
    if (train := splits["train"]) is None:
        raise TrainError(
            f"{data.source}: no row of {data.config} fits the model "
            f"({_listed(left_out['train'])}). Raise [trainer] max_length if it is set, or use a "
            "model with a longer context or another chat template."
        )
    rounded = -(-longest // _STEP) * _STEP
    facts = {
        "rows": len(train),
        "max_length": max_length or least(rounded, fit.limit),
        "left_out": left_out,
    }
    return replace(data, train=train, validation=splits.get("validation")), facts


def _measure(
    rows: "datasets.Dataset", fit: Fit
) -> tuple[list[int], int, Counter[str], dict[str, str]]:
    """Return the rows that fit, their maximum length, and counts and examples of the others."""
    kept: list[int] = []
    longest = 0
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for start, batch in _batches(rows):
        measured = fit.measure(batch)
        for index, (row, size) in enumerate(zip(batch, measured, strict=True), start):
            if size.reason is None:
                kept.append(index)
                longest = max(longest, size.longest)
            else:
                counts[size.reason] += 1
                name = row.get("node_id") or row.get("chosen_id") or f"row {index}"
                examples.setdefault(size.reason, name)
    return kept, longest, counts, examples


def _batches(rows: "datasets.Dataset") -> Iterator[tuple[int, list[dict[str, Any]]]]:
    columns = ("prompt", *SIDES, VARIABLES, "node_id", "chosen_id")
    rows = rows.select_columns([name for name in rows.column_names if name in columns])
    for start in range(0, len(rows), _BATCH):
        yield start, rows.select(range(start, min(start + _BATCH, len(rows)))).to_list()


def _sentence(
    config: str,
    split: str,
    rows: int,
    counts: Counter[str],
    examples: dict[str, str],
    limit: int | None,
) -> str:
    reasons = "; ".join(
        f"{count} {reason} ({UNFIT[reason]}, e.g. {examples[reason]})"
        for reason, count in counts.items()
    )
    at_limit = f" at {limit} tokens" if "too_long" in counts else ""
    return f"{config}: {counts.total()} of {rows} {split} rows left out{at_limit}: {reasons}."


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
