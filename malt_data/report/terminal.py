"""Terminal output: statistics of the roles, one tree in colour, a table of rows.

Texts come from models and may contain anything, so markup in them is not interpreted and control
characters are escaped.
"""

import json
from typing import IO, Any

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from malt_data.display import clean, escape, fold
from malt_data.forests.confidence import SURE
from malt_data.forests.facts import find_tree, question_of, with_confidence
from malt_data.forests.forest import Forest

_MAX_ROWS = 100
_WIDEST_NAME = 100


def print_stats(facts: dict[str, Any], console: Console) -> None:
    """Print the result of `stats` with one column per role, which fits 80 columns."""
    overall = facts["forest"]
    console.print(
        f"{overall['trees']} of {overall['questions']} questions have a tree: "
        f"{overall['all_right']} all right, {overall['mixed']} mixed, "
        f"{overall['all_wrong']} all wrong."
    )
    roles = facts["roles"]
    if len(roles) > 1:
        console.print(
            f"The last turn fixes {_share(overall['fix_rate'])} of wrong first answers and breaks "
            f"{_share(overall['break_rate'])} of right ones."
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
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for row in roles:
        table.add_column(Text(escape(row["role"])), justify="right")
    for name in roles[0] if roles else ():
        if name != "role":
            table.add_row(name.replace("_", " "), *(_cell(row[name]) for row in roles))
    console.print(table)
    if roles:
        console.print(
            "Confidence: the probability that a label is right, given all leaves of its tree; "
            f"unsure: below {SURE:g}. Of each node: malt-data sql 'FROM confidence'"
        )


def show(forest: Forest, name: str | None, console: Console, width: int = 100) -> None:
    """Print the tree that `name`, a question or node id or a prefix of one, belongs to.

    None: the first tree. width: characters to show of each text; 0 means all.
    Raises ForestError if there is no such tree.
    """
    nodes = with_confidence(forest, find_tree(forest, name))
    question = question_of(forest, nodes)
    question_id = question["question_id"]
    head = Text.assemble(
        (escape(question_id), "bold"), "  gold ", (clean(question["gold"]), "bold"), "\n"
    )
    head.append(fold(question["question"], width))
    for letter, choice in zip(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ", question["choices"] or (), strict=False
    ):
        head.append(f"\n{letter}. {fold(choice or '', width)}")
    root = Tree(head)
    branches = {question_id: root}
    for node in nodes.iter_rows(named=True):
        parent = branches.get(node["parent_id"] or question_id, root)
        branches[node["node_id"]] = parent.add(_line(node, name, width))
    console.print(root, soft_wrap=not width)


def _line(node: dict[str, Any], name: str | None, width: int) -> Text:
    colour = "green" if node["label"] else "red"
    node_name = escape(node["node_id"].rpartition("/")[2])
    answer = "no answer" if node["answer"] is None else fold(node["answer"], 30)
    mark = {"right": "✓", "wrong": "✗", "timeout": "?"}.get(node["verdict"], "–")
    added = " extra" if node["extra"] else ""
    cut = " cut off" if node["finish_reason"] == "length" else ""
    line = Text.assemble(
        (node_name, f"bold {colour}" + (" reverse" if node["node_id"] == name else "")),
        (f" {node['value']:.2f} {'+' if node['label'] else '-'}", colour),
        (_sure(node), "dim"),
        f" {mark} ",
        (answer, "bold"),
        (added, "cyan"),
        (cut, "yellow"),
        "  ",
        (fold(node["text"], width), "dim"),
    )
    if width:
        line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _sure(node: dict[str, Any]) -> str:
    """Return the confidence of a label; nothing for a leaf, whose label is certain."""
    if node["reward"] is not None or node["confidence"] is None:
        return ""
    return f" {100 * node['confidence']:.0f} %"


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


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.0f} %"


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
