"""Explain a label: from a node id back to the samples and values behind it.

    facts = explain(open_forest("forest"), "5f5d63edee44763e/g0/v2")
    facts["label_because"]   # 'mean of 1.00, 0.00, 1.00 is 0.67, above 0.5: positive'
    facts["exports"]         # per config: the rows it is in, or the reasons why it is left out

It applies the rules of an export to the node's tree, with the settings of the forest's existing
exports, so the result matches what was exported.
"""

from typing import Any

import polars as pl
import pyarrow as pa

from malt_data.errors import ForestError
from malt_data.exporters.export import exports_of
from malt_data.exporters.rows import LEDGER_COLUMNS, Rows, new_database
from malt_data.exporters.selection import Selection
from malt_data.forests.facts import find_tree, full_id, question_of, with_confidence
from malt_data.forests.forest import Forest
from malt_data.schemas.exports import Config, all_configs, config_named
from malt_data.schemas.forest import NODES, QUESTIONS

_QUESTION = ("question_id", "question", "choices", "gold")


def explain(forest: Forest, node_id: str, other: str | None = None) -> dict[str, Any]:
    """Return the path, texts, leaves, the reason for the label, and each export's decision.

    other: the second id of a dpo row, to explain only that row. Raises ForestError if there is no
    such node.
    """
    tree = find_tree(forest, node_id)
    node_id = full_id(tree, node_id)
    if other and node_id.startswith(other.partition("/")[0]):  # of the same tree, cut short
        other = full_id(tree, other)
    ids = set(tree["node_id"])
    steps = node_id.split("/")
    path = ["/".join(steps[: i + 1]) for i in range(1, len(steps))]
    if node_id in ids and (missing := {*path} - ids):
        raise ForestError(
            f"The tree of {node_id} has no node {min(missing)}. See what else is missing: "
            "malt-data verify"
        )
    for name in (node_id, other):
        if name is not None and name not in ids:
            raise ForestError(
                f"{name!r} is not a node of tree {tree['question_id'][0]}. Its nodes are "
                f"{', '.join(sorted(ids)[:2])}, …"
            )
    tree = tree.unique("node_id", keep="first", maintain_order=True)  # as in a sound one
    tree = with_confidence(forest, tree)
    node = tree.row(by_predicate=pl.col("node_id") == node_id, named=True)
    leaves = tree.filter(
        pl.col("reward").is_not_null()
        & ((pl.col("node_id") == node_id) | pl.col("node_id").str.starts_with(node_id + "/"))
    )
    question = question_of(forest, tree)
    return {
        "question": {name: question[name] for name in _QUESTION},
        "path": [tree.row(by_predicate=pl.col("node_id") == name, named=True) for name in path],
        "leaves": leaves.select("node_id", "answer", "verdict", "reward").to_dicts(),
        "label_because": _because(forest, tree, node),
        **{name: node[name] for name in ("confidence", "low", "high", "bound")},
        "exports": _exports(forest, question, tree, node, other),
    }


def _is_leaf(node: dict[str, Any]) -> bool:
    return node["reward"] is not None


def _because(forest: Forest, tree: pl.DataFrame, node: dict[str, Any]) -> str:
    labels = forest.manifest.labels
    side = "above" if node["label"] else "not above"
    outcome = f"{side} {labels.threshold:g}: {'positive' if node['label'] else 'negative'}"
    if _is_leaf(node):
        return f"its answer is {node['verdict']}, so its reward {node['reward']:g} is {outcome}"
    children = tree.filter((pl.col("parent_id") == node["node_id"]) & ~pl.col("extra"))
    local = labels.pooling == "local"
    values = children["label"].cast(pl.Float64) if local else children["value"]
    listed = ", ".join(f"{value:.2f}" for value in values)
    of = "labels of its children" if local else "its children's values"
    return f"mean of {of} {listed} is {node['value']:.2f}, {outcome}"


def _exports(
    forest: Forest,
    question: dict[str, Any],
    tree: pl.DataFrame,
    node: dict[str, Any],
    other: str | None,
) -> dict[str, dict[str, Any]]:
    one = pa.Table.from_pylist([question], QUESTIONS)
    database = new_database()
    existing = {} if forest.origin else exports_of(forest)
    state = forest.fingerprint()
    schema = pa.schema(map(NODES.field, LEDGER_COLUMNS))
    chunk = tree.select(LEDGER_COLUMNS).to_arrow().cast(schema)
    decisions = {}
    pipeline = forest.manifest.spec.pipeline
    configs = {config.name: config for config in all_configs(pipeline.roles)}
    configs |= {name: config_named(report.config) for name, report in existing.items()}
    for name, config in configs.items():
        trained = config.role == node["role"] if config.role else _is_leaf(node)
        if not trained or (other is not None and config.format.unit != "pair"):
            continue
        report = existing.get(name)
        selection = report.selection if report else Selection()
        with Rows(forest, config, selection, questions=one, database=database) as rows:
            ledger = pl.DataFrame(rows.ledger(chunk))
        status = "not exported yet" if report is None else "exported"
        if report is not None and report.forest != state:
            status = "exported from an earlier state of the forest"
        decisions[name] = {"status": status, "rows": _rows(config, ledger, node, other)}
    return decisions


def _rows(
    config: Config, ledger: pl.DataFrame, node: dict[str, Any], other: str | None
) -> list[dict[str, Any]]:
    for name in filter(None, (node["node_id"], other)):
        ledger = ledger.filter(pl.any_horizontal(pl.col(config.ids) == name))
    return ledger.select(*config.ids, "split", "reason").to_dicts()
