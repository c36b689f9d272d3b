"""Terminal output: statistics of the roles, a table of rows. `tree.py` prints a tree.

Texts come from models and may contain anything, so markup in them is not interpreted and control
characters are escaped.
"""

import json
from typing import IO, Any

import polars as pl
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from malt_data.display import escape, fold
from malt_data.forests.confidence import FITTED_TREES, SURE

_LITTLE = 0.8
"""Labels say little if fewer pairs of a right and a wrong answer prefer the right one."""
_FEW = 20
"""Of fewer right or wrong answers, nothing is said about their labels."""

_MAX_ROWS = 100
_WIDEST_NAME = 100
_SHARES = ("positive_if_right", "positive_if_wrong", "mean_confidence", "share_unsure")


def print_stats(facts: dict[str, Any], console: Console) -> None:
    """Print the result of `stats` with a column per role, in as many blocks as the width asks."""
    overall = facts["forest"]
    console.print(
        f"{overall['trees']} of {overall['questions']} questions have a tree: "
        f"{overall['all_right']} all right, {overall['mixed']} mixed, "
        f"{overall['all_wrong']} all wrong."
    )
    roles = facts["roles"]
    if len(roles) > 1:
        console.print(
            f"The last turn fixes {percent(overall['fix_rate'])} of wrong first answers and breaks "
            f"{percent(overall['break_rate'])} of right ones."
        )
    if overall["prompt_least"]:
        times = overall["prompt_computed"] / overall["prompt_least"]
        console.print(
            f"Prompt tokens computed: {overall['prompt_computed']}, {times:.2f} times the least "
            "possible (each distinct prefix of a tree once)."
        )
    if extra := sum(row["extra"] for row in roles):
        console.print(
            f"{extra} nodes were added where a label was lacking. All lines above, mean value and "
            "accuracy rest on the others; the remaining counts include them."
        )
    for block in _blocks(roles, console.width):
        console.print(_role_table(block))
    if little := [row for row in roles if _says_little(row)]:
        console.print(_on_credit(little))
    if roles:
        console.print(_on_confidence(overall["trees"]))


def _says_little(row: dict[str, Any]) -> bool:
    """Return whether the pairs of a role hardly prefer its right answers to its wrong ones."""
    right, wrong = row["positive_if_right"], row["positive_if_wrong"]
    if right is None or wrong is None:
        return False
    answers = (row["nodes"] - row["extra"]) * min(row["accuracy"], 1 - row["accuracy"])
    for_right, for_wrong = right * (1 - wrong), wrong * (1 - right)
    return bool(answers >= _FEW and for_right < _LITTLE * (for_right + for_wrong))


def _on_credit(roles: list[dict[str, Any]]) -> str:
    each = ", ".join(
        f"{escape(row['role'])} ({percent(row['positive_if_right'])} of right ones are positive, "
        f"{percent(row['positive_if_wrong'])} of wrong ones)"
        for row in roles
    )
    return (
        f"Labels say little about the answers of {each}: later turns decide them. Train on trees "
        "that the team has grown after SFT: malt-data build --team TEAM --adapters sft"
    )


def _on_confidence(trees: int) -> str:
    basis = f" (here of the {FITTED_TREES:,} trees with the smallest ids)" * (trees > FITTED_TREES)
    return (
        f"Confidence{basis}: the probability that a label is right, given all leaves of its tree; "
        f"unsure: below {percent(SURE)}. Of each node: malt-data sql 'FROM confidence'"
    )


def _blocks(roles: list[dict[str, Any]], width: int) -> list[list[dict[str, Any]]]:
    """Split the rows of the roles into as few tables as fit `width`, at least one role each."""
    blocks: list[list[dict[str, Any]]] = []
    left = 0
    for row in roles:
        cells = (_role_cell(name, value) for name, value in row.items())
        taken = 2 + max(cell_len(cell) for cell in cells)
        if not blocks or taken > left:
            blocks.append([])
            left = width - max(map(len, row))
        blocks[-1].append(row)
        left -= taken
    return blocks


def _role_table(roles: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for row in roles:
        table.add_column(Text(escape(row["role"]), overflow="fold"), justify="right")
    for name in roles[0]:
        if name != "role":
            cells = (_role_cell(name, row[name]) for row in roles)
            table.add_row(name.replace("_", " "), *cells)
    return table


def _role_cell(name: str, value: Any) -> str:
    return percent(value) if name in _SHARES else _cell(value)


def print_rows(frame: pl.DataFrame, console: Console) -> int:
    """Print rows as a table that fits the terminal; return how many rows were not shown."""
    table = Table(header_style="bold", row_styles=["", "dim"], box=None, pad_edge=False)
    for name, kind in frame.schema.items():
        head = Text(fold(name, _WIDEST_NAME).replace(" ", "\n"))  # leave width to the values
        table.add_column(head, justify="right" if kind.is_numeric() else "left")
    for row in frame.head(_MAX_ROWS).iter_rows():
        table.add_row(*(Text(_cell(value), overflow="fold") for value in row))
    console.print(table)
    return max(0, frame.height - _MAX_ROWS)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if not 1e4 <= abs(value) < 1e15 else f"{value:.0f}"
    if isinstance(value, str):
        return fold(value, 200)
    if isinstance(value, list | dict):
        return fold(json.dumps(value, ensure_ascii=False, default=str), 200)
    return fold(str(value), 200)


def percent(share: float | None) -> str:
    """Return a share as a whole percentage; 0 % and 100 % are exact.

    >>> percent(0.996), percent(1), percent(0.004), percent(None)
    ('>99 %', '100 %', '<1 %', 'n/a')
    """
    if share is None:
        return "n/a"
    shown = f"{100 * share:.0f} %"
    if shown == "100 %" and share < 1:
        return ">99 %"
    return "<1 %" if shown == "0 %" and share > 0 else shown


def write_rows(frame: pl.DataFrame, form: str, stream: IO[bytes]) -> None:
    """Write rows as csv, json, jsonl or parquet; in CSV, nested values are JSON."""
    if form == "parquet":
        frame.write_parquet(stream, compression="zstd")
    elif form == "jsonl":
        frame.write_ndjson(stream)
    elif form == "json":
        stream.write(json.dumps(frame.to_dicts(), ensure_ascii=False, default=str).encode() + b"\n")
    else:
        nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
        as_json = [
            pl.col(name).map_elements(
                lambda v: json.dumps(v.to_list() if isinstance(v, pl.Series) else v, default=str),
                return_dtype=pl.String,
            )
            for name in nested
        ]
        frame.with_columns(as_json).write_csv(stream)
