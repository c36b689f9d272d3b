"""Which rows the model can take, and the `max_length` that cuts none of them.

TRL cuts what is longer than `max_length`, a completion in its middle too, and learns the wrong
tokens where the prompt is no prefix. Such rows are left out before the first step, and counted.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from malt_data.errors import SpecError, TrainError
from malt_data.exporters.fit import SIDES, UNFIT, Fit, context_of, least
from malt_data.trainers.data import Data

if TYPE_CHECKING:
    import datasets

_BATCH = 512
_STEP = 64
"""`max_length` is a multiple of so many tokens."""


def fit_rows(
    data: Data,
    tokenizer: Any,
    config: Any,
    max_length: int | None,
    note: Callable[[str], None],
) -> tuple[Data, dict[str, Any]]:
    """Return the data without the rows that do not fit, and the facts of that for the record.

    config: the base model's, which knows its context. max_length: what `[trainer]` says; None:
    the longest row that the model can take. The facts are `rows` (to train on), `max_length`
    and `left_out` (split → reason → rows). Raises TrainError where no row to train on remains,
    SpecError where `max_length` is no length.
    """
    if max_length is not None and (type(max_length) is not int or max_length < 1):
        raise SpecError(f"[trainer] max_length: a number of tokens, 1 or more (got {max_length!r})")
    fit = Fit(tokenizer, least(max_length, context_of(tokenizer, config)))
    splits: dict[str, datasets.Dataset | None] = {}
    left_out: dict[str, dict[str, int]] = {}
    longest = 0
    for split, rows in (("train", data.train), ("validation", data.validation)):
        if rows is None:
            continue
        kept, most, counts, examples = _measured(rows, fit)
        longest = max(longest, most)
        left_out[split] = {reason: counts[reason] for reason in UNFIT}
        splits[split] = rows.select(kept) if kept else None
        if counts:
            note(_sentence(data.config, split, len(rows), counts, examples, fit.limit))
    if (train := splits["train"]) is None:
        raise TrainError(
            f"{data.source}: the model can take no row of {data.config}: "
            f"{_listed(left_out['train'])}. Raise [trainer] max_length where it is set, or take a "
            "model with a longer context or another chat template."
        )
    rounded = -(-longest // _STEP) * _STEP
    facts = {
        "rows": len(train),
        "max_length": max_length or least(rounded, fit.limit),
        "left_out": left_out,
    }
    return replace(data, train=train, validation=splits.get("validation")), facts


def _measured(
    rows: "datasets.Dataset", fit: Fit
) -> tuple[list[int], int, Counter[str], dict[str, str]]:
    """Return the rows that fit, tokens of the longest, and of the others the reasons and names."""
    kept: list[int] = []
    longest = 0
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for start, batch in _batches(rows):
        for place, (row, one) in enumerate(zip(batch, fit.measure(batch), strict=True), start):
            if one.reason is None:
                kept.append(place)
                longest = max(longest, one.longest)
            else:
                counts[one.reason] += 1
                name = row.get("node_id") or row.get("chosen_id") or f"row {place}"
                examples.setdefault(one.reason, name)
    return kept, longest, counts, examples


def _batches(rows: "datasets.Dataset") -> Iterator[tuple[int, list[dict[str, Any]]]]:
    wanted = ("prompt", *SIDES, "node_id", "chosen_id")
    rows = rows.select_columns([name for name in rows.column_names if name in wanted])
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
    most = f" at {limit} tokens" if "too_long" in counts else ""
    return f"{config}: {counts.total()} of {rows} {split} rows left out{most}: {reasons}."


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
