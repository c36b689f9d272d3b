"""Print one tree in colour, a line per node, with what repeats itself folded.

Texts come from models and may contain anything, so markup in them is not interpreted and control
characters are escaped.
"""

from typing import Any, NamedTuple

import polars as pl
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from malt_data.display import clean, escape, fold
from malt_data.forests.facts import question_of, with_confidence
from malt_data.forests.forest import Forest
from malt_data.report.terminal import percent

LONG = 40
"""Lines from which a tree is folded."""
_LEAST_FOLDED = 2
"""A fold takes a line itself."""
_MARKS = {"right": "✓", "wrong": "✗", "timeout": "?"}
_ALL = {"unanswered": "without an answer", "timeout": "not graded"}


def print_tree(
    forest: Forest,
    nodes: pl.DataFrame,
    console: Console,
    *,
    marked: str | None = None,
    width: int = 100,
    folded: bool = False,
) -> int:
    """Print the nodes of one tree, in tree order; return how many of them were folded.

    marked: the id of a node to highlight, which is not folded. width: characters to show of each
    text; 0 means all. folded: if it takes more than LONG lines, print one line in place of
    subtrees, and of siblings in the last turn, that repeat the answer and label above them.
    """
    question = question_of(forest, nodes)
    root = Tree(_head(question, width))
    rows = with_confidence(forest, nodes).to_dicts()
    branches = _Branches(rows, marked or "", width)
    branches.folds = folded and len(rows) + str(root.label).count("\n") + 1 > LONG
    branches.add(root, branches.children.get(None, []))
    console.print(root)
    return branches.hidden


def _head(question: dict[str, Any], width: int) -> Text:
    name, gold = escape(question["question_id"]), clean(question["gold"])
    head = Text.assemble((name, "bold"), "  gold ", (gold, "bold"), "\n")
    head.append(fold(question["question"], width))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for letter, choice in zip(letters, question["choices"] or (), strict=False):
        head.append(f"\n{letter}. {fold(choice or '', width)}")
    return head


class _Kind(NamedTuple):
    """What the nodes of a fold have in common."""

    label: bool
    verdict: str
    answer: str | None

    def describe(self, count: int) -> Text:
        what = _ALL.get(self.verdict, self.verdict)
        answer = "" if self.answer is None else f": {fold(self.answer, 30)}"
        colour = "green" if self.label else "red"
        return Text.assemble("… ", (f"{count} more, all {what}", colour), answer)


class _Branches:
    """The nodes of one tree by parent, and which of them can be folded."""

    def __init__(self, rows: list[dict[str, Any]], marked: str, width: int) -> None:
        self._marked, self._width = marked, width
        self.folds, self.hidden = False, 0
        self.children: dict[str | None, list[dict[str, Any]]] = {}
        known = {row["node_id"] for row in rows}
        for row in rows:
            parent = row["parent_id"] if row["parent_id"] in known else None
            self.children.setdefault(parent, []).append(row)
        self._sizes: dict[str, int] = {}
        self._kinds: dict[str, _Kind | None] = {}
        for row in reversed(rows):  # children before parents
            self._measure(row)

    def _measure(self, row: dict[str, Any]) -> None:
        """Note the size of a subtree, and the kind of all its nodes if they have the same."""
        name = row["node_id"]
        below = [child["node_id"] for child in self.children.get(name, ())]
        self._sizes[name] = 1 + sum(self._sizes[child] for child in below)
        kind = _Kind(row["label"], row["verdict"], row["answer"])
        alike = all(self._kinds[child] == kind for child in below)
        on_the_way = self._marked == name or self._marked.startswith(f"{name}/")
        self._kinds[name] = kind if alike and not on_the_way else None

    def add(self, parent: Tree, siblings: list[dict[str, Any]]) -> None:
        """Add siblings and all below them to the line of their parent."""
        repeats: dict[_Kind, list[dict[str, Any]]] = {}
        for row in siblings:
            kind, size = self._kinds[row["node_id"]], self._sizes[row["node_id"]]
            if self.folds and kind and size == 1:
                repeats.setdefault(kind, []).append(row)
        rest = {kind: alike[1:] for kind, alike in repeats.items() if len(alike) > _LEAST_FOLDED}
        folded = {row["node_id"] for alike in rest.values() for row in alike}
        for row in siblings:
            name = row["node_id"]
            if name in folded:
                continue
            branch = parent.add(_line(row, self._marked, self._width))
            kind, below = self._kinds[name], self._sizes[name] - 1
            if self.folds and kind and below >= _LEAST_FOLDED:
                self._fold(branch, kind, below)
            else:
                self.add(branch, self.children.get(name, []))
        for kind, alike in rest.items():
            self._fold(parent, kind, len(alike))

    def _fold(self, branch: Tree, kind: _Kind, count: int) -> None:
        branch.add(kind.describe(count))
        self.hidden += count


def _line(node: dict[str, Any], marked: str, width: int) -> Text:
    colour = "green" if node["label"] else "red"
    node_name = escape(node["node_id"].rpartition("/")[2])
    answer = "no answer" if node["answer"] is None else fold(node["answer"], 30)
    added = " extra" if node["extra"] else ""
    cut = " cut off" if node["finish_reason"] == "length" else ""
    line = Text.assemble(
        (node_name, f"bold {colour}" + (" reverse" if node["node_id"] == marked else "")),
        (f" {node['value']:.2f} {'+' if node['label'] else '-'}", colour),
        (_sure(node), "dim"),
        f" {_MARKS.get(node['verdict'], '–')} ",
        (answer, "bold"),
        (added, "cyan"),
        (cut, "yellow"),
        "  ",
        (fold(node["text"], width), "dim"),
    )
    if width:  # else it wraps, indented
        line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _sure(node: dict[str, Any]) -> str:
    """Return the confidence of a label; nothing for a leaf, whose label is certain."""
    if node["reward"] is not None or node["confidence"] is None:
        return ""
    return f" {percent(node['confidence'])}"
