"""The views over trees, held against the same facts counted in Python."""

from pathlib import Path
from typing import Any

import pytest
from synthetic import make_forest

from malt_data.forests.forest import Forest


def _expected(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Count what `trees` says of one tree, node by node."""
    by_id = {node["node_id"]: node for node in nodes}
    leaves = [node for node in nodes if node["reward"] is not None]
    firsts = [by_id["/".join(leaf["node_id"].split("/")[:2])] for leaf in leaves]
    ends = [(first["correct"], leaf["correct"])  # None where the grader could not decide
            for first, leaf in zip(firsts, leaves, strict=True)]  # fmt: skip
    taught = [
        (one["depth"], one["node_id"], other["node_id"])
        for one in nodes
        for other in nodes
        if one["parent_id"] == other["parent_id"] and one["depth"] == other["depth"]
        if one["label"] and not other["label"]
    ]
    right = sum(leaf["reward"] for leaf in leaves)
    outcome = "all right" if right == len(leaves) else "mixed" if right else "all wrong"
    return {
        "outcome": outcome,
        "value": pytest.approx(right / len(leaves)),
        "nodes": len(nodes),
        "leaves": len(leaves),
        "pairs": len(taught),
        "turns_with_pairs": len({depth for depth, *_ in taught}),
        "rescued": ends.count((False, True)),
        "spoiled": ends.count((True, False)),
        "unanswered": sum(node["verdict"] == "unanswered" for node in nodes),
        "truncated": sum(node["finish_reason"] == "length" for node in nodes),
        "completion_tokens": sum(node["completion_tokens"] for node in nodes),
    }


def _trees(forest: Forest) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for node in forest.nodes().collect().to_dicts():
        found.setdefault(node["question_id"], []).append(node)
    return found


@pytest.mark.parametrize("n", [(2, 3, 2), (1, 1, 1)])
def test_trees_are_counted_as_node_by_node(tmp_path: Path, n: tuple[int, ...]) -> None:
    forest = make_forest(tmp_path / "forest", trees=8, n=n, timeouts=0.1)
    rows = {row.pop("question_id"): row for row in forest.sql("FROM trees").to_dicts()}
    expected = {name: _expected(nodes) for name, nodes in _trees(forest).items()}
    misled = {row["question_id"]: row["misled"] for row in forest.sql(
        "SELECT question_id, count(*) FILTER (NOT holds) AS misled FROM judgements GROUP BY ALL"
    ).to_dicts()}  # fmt: skip
    assert {name: row | {"misled": misled[name]} for name, row in expected.items()} == rows


def test_trees_of_one_turn_rescue_and_mislead_nothing(tmp_path: Path) -> None:
    from malt_data.prompts.pipelines import find_pipeline

    forest = make_forest(tmp_path / "f", n=(4,), pipeline=find_pipeline("generator"))
    rows = forest.sql("SELECT DISTINCT rescued, spoiled, misled FROM trees").rows()
    assert rows == [(0, 0, 0)]


def test_credit_is_counted_as_node_by_node(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "forest", trees=12, n=(2, 3, 2), timeouts=0.1)
    found = {row["role"]: row for row in forest.sql("FROM credit").to_dicts()}
    nodes = [node for tree in _trees(forest).values() for node in tree]
    assert list(found) == ["generator", "refiner"]  # in the order of their turns; the other judges
    for role, row in found.items():
        right = [n["label"] for n in nodes if n["role"] == role and n["correct"]]
        wrong = [n["label"] for n in nodes if n["role"] == role and not n["correct"]]
        assert (row["right_answers"], row["wrong_answers"]) == (len(right), len(wrong))
        assert row["positive_if_right"] == pytest.approx(sum(right) / len(right))
        assert row["positive_if_wrong"] == pytest.approx(sum(wrong) / len(wrong))
        assert 0 < len(right) < len(right + wrong)
