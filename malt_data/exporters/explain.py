"""The proof of a row: from a node id back to the samples and values that made its label.

    facts = explain(open_forest("forest"), "5f5d63edee44763e/g0/v2")
    facts["label_because"]   # 'mean of 1.00, 0.00, 1.00 is 0.67, above 0.5: positive'
    facts["exports"]         # for every config: rows it is in, reasons where it is not

It runs the very rules of an export over the node's tree, with the settings of the forest's own
exports where they stand, so what it says is what was done.
"""

from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
from rich.console import Console
from rich.text import Text

from malt_data.display import clean, spelt
from malt_data.errors import ForestError
from malt_data.exporters.export import exports_of, fingerprint
from malt_data.exporters.rows import COLUMNS, Rows
from malt_data.exporters.selection import REASONS, Selection
from malt_data.report.terminal import find_tree
from malt_data.schemas.exports import ALL, Config

if TYPE_CHECKING:
    from malt_data.forests.forest import Forest


def explain(forest: "Forest", node_id: str, other: str | None = None) -> dict[str, Any]:
    """Return the path, the texts, the leaves, the reason of the label, and each export's verdict.

    other: the second id of a dpo row; then only that row is told. Raises ForestError where
    there is no such node.
    """
    tree = find_tree(forest, node_id)
    known = set(tree["node_id"])
    for name in (node_id, other):
        if name is not None and name not in known:
            raise ForestError(
                f"{name!r} is no node of tree {tree['question_id'][0]}: write "
                f"{min(known)}, {min(known)}/v0, …"
            )
    node = tree.row(by_predicate=pl.col("node_id") == node_id, named=True)
    steps = node_id.split("/")
    path = ["/".join(steps[: i + 1]) for i in range(1, len(steps))]
    leaves = tree.filter(
        (pl.col("depth") == 3)
        & ((pl.col("node_id") == node_id) | pl.col("node_id").str.starts_with(node_id + "/"))
    )
    question = forest.questions().filter(pl.col("question_id") == steps[0]).collect()
    return {
        "question": question.select("question_id", "question", "choices", "gold").row(
            0, named=True
        ),
        "path": [tree.row(by_predicate=pl.col("node_id") == name, named=True) for name in path],
        "leaves": leaves.select("node_id", "answer", "verdict", "reward").to_dicts(),
        "label_because": _because(forest, tree, node),
        "exports": _exports(forest, tree, node, other),
    }


def _because(forest: "Forest", tree: pl.DataFrame, node: dict[str, Any]) -> str:
    labels = forest.manifest.labels
    side = "above" if node["label"] else "not above"
    outcome = f"{side} {labels.threshold:g}: {'positive' if node['label'] else 'negative'}"
    if node["depth"] == 3:
        return f"its answer is {node['verdict']}, so its reward {node['reward']:g} is {outcome}"
    children = tree.filter(pl.col("parent_id") == node["node_id"])
    local = labels.pooling == "local"
    values = children["label"].cast(pl.Float64) if local else children["value"]
    listed = ", ".join(f"{value:.2f}" for value in values)
    of = "labels of its children" if local else "its children's values"
    return f"mean of {of} {listed} is {node['value']:.2f}, {outcome}"


def _exports(
    forest: "Forest", tree: pl.DataFrame, node: dict[str, Any], other: str | None
) -> dict[str, dict[str, Any]]:
    there = {} if forest.origin else exports_of(forest)
    state = fingerprint(forest)
    chunk = tree.select(COLUMNS).to_arrow().cast(pa.schema(_large_to_small(tree)))
    found = {}
    for config in ALL:
        if config.depth != node["depth"] or (other is not None and config.format != "dpo"):
            continue
        report = there.get(config.name)
        with Rows(forest, config, report.selection if report else Selection()) as rows:
            ledger = pl.DataFrame(rows.ledger(chunk))
        status = "not exported yet" if report is None else "exported"
        if report is not None and report.forest != state:
            status = "exported from an earlier state of the forest"
        found[config.name] = {"status": status, "rows": _about(config, ledger, node, other)}
    return found


def _about(
    config: Config, ledger: pl.DataFrame, node: dict[str, Any], other: str | None
) -> list[dict[str, Any]]:
    for name in filter(None, (node["node_id"], other)):
        ledger = ledger.filter(pl.any_horizontal(pl.col(config.ids) == name))
    split = pl.when("validation").then(pl.lit("validation")).otherwise(pl.lit("train"))
    return ledger.select(*config.ids, split=split, reason="reason").to_dicts()


def _large_to_small(tree: pl.DataFrame) -> list[tuple[str, pa.DataType]]:
    """Return the columns' Arrow types as the files have them; polars makes strings large."""
    schema = tree.select(COLUMNS).to_arrow().schema
    big = (pa.large_string(), pa.string_view())
    return [(f.name, pa.string() if f.type in big else f.type) for f in schema]


def print_explained(facts: dict[str, Any], console: Console) -> None:
    """Print what `explain` returned, from the question down to the exports."""
    question = facts["question"]
    console.print(
        Text(f"question {question['question_id']}, gold {clean(question['gold'])}", "bold")
    )
    console.print(Text(clean(question["question"])))
    for node in facts["path"]:
        mark = "+" if node["label"] else "-"
        console.print(
            Text(f"\n{spelt(node['node_id'])}  {node['role']}  {node['value']:.2f} {mark}", "bold")
        )
        console.print(Text(clean(node["text"])))
    console.print(Text("\nwhy", "bold"))
    for leaf in facts["leaves"]:
        answer = "no answer" if leaf["answer"] is None else clean(leaf["answer"])
        console.print(Text(f"{spelt(leaf['node_id'])}  {leaf['verdict']}  {answer}"))
    console.print(Text(facts["label_because"]))
    console.print(Text("\nexports", "bold"))
    for name, found in facts["exports"].items():
        rows = found["rows"]
        console.print(Text(f"{name} ({found['status']}): {_outcome(rows)}"))
        for row in rows:
            if "chosen_id" in row:
                why = row["reason"] or f"row in {row['split']}"
                console.print(Text(f"  {row['chosen_id']} over {row['rejected_id']}: {why}"))


def _outcome(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "no pair: it takes two siblings of differing label"
    if "chosen_id" in rows[0]:
        kept = sum(row["reason"] is None for row in rows)
        return f"in {kept} of {len(rows)} pairs"
    reason = rows[0]["reason"]
    return f"left out: {reason} ({REASONS[reason]})" if reason else f"row in {rows[0]['split']}"
