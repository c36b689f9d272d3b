"""Write SFT rows with as many completions of either kind: what one would do about a prior.

    python docs/results/natural/balanced.py trees/exports balanced/rows

The kinds are yes and no, or the first and the second of the two numbers in the question. Of the
commoner kind, rows are drawn at random; rows of neither kind (long texts, other numbers) are left
out, and those of one kind stay if there is none of the other.
"""

import re
import sys
from pathlib import Path

import polars as pl

_TWO = re.compile(r"(\d+) or (\d+)\?")


def kind(prompt: str, completion: str) -> str:
    """Return yes, no, first or second; else an empty text."""
    said = re.match(r"\W*(yes|no|\d+)\b", completion, re.IGNORECASE)
    word = said[1].lower() if said else ""
    if word in ("yes", "no"):
        return word
    asked = _TWO.findall(prompt)  # the last one: those before are examples
    return dict(zip(asked[-1], ("first", "second"), strict=True)).get(word, "") if asked else ""


def balanced(rows: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """Return rows with as many of yes as of no, and of first as of second, in their order."""
    kinds = [kind(row["prompt"], row["completion"]) for row in rows.iter_rows(named=True)]
    rows = rows.with_row_index("_place").with_columns(_kind=pl.Series(kinds))
    kept = []
    for pair in (("yes", "no"), ("first", "second")):
        sides = [rows.filter(pl.col("_kind") == side) for side in pair]
        fewest = min(map(len, sides)) or max(map(len, sides))
        kept += [side.sample(min(fewest, len(side)), seed=seed) for side in sides]
    return pl.concat(kept).sort("_place").drop("_place", "_kind")


def main(exports: Path, out: Path) -> None:
    for export in sorted(exports.glob("*_sft")):
        rows = balanced(pl.read_parquet(export / "train-*.parquet"))
        (out / export.name).mkdir(parents=True, exist_ok=True)
        rows.write_parquet(out / export.name / "train-00000.parquet")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
