"""Derive the expected content of an export from the nodes table in plain Python, without SQL."""

import hashlib
from collections import Counter
from typing import Any

from malt_data.exporters.selection import Selection
from malt_data.forests.forest import Forest
from malt_data.prompts.templates import render
from malt_data.schemas.exports import Config

Row = dict[str, Any]


def derive(
    forest: Forest, config: Config, chosen: Selection | None = None
) -> tuple[dict[str, list[Row]], Counter[str]]:
    """Return (split → rows in any order, reason → dropped)."""
    chosen = chosen or Selection()
    nodes = {row["node_id"]: row for row in forest.nodes().collect().to_dicts()}
    questions = {row["question_id"]: row for row in forest.questions().collect().to_dicts()}
    candidates = _candidates(config, nodes)
    undecided = _resting_on_a_timeout(nodes)
    depth = len(forest.manifest.spec.pipeline.turns)
    for one in candidates:
        names = [one[side]["node_id"] for side in ("chosen", "rejected") if side in one]
        one["ungraded"] = bool(undecided & set(names or [one["node_id"]]))
    if config.format.name == "trajectory":  # cut off if any turn of the path is
        cut = {name for name, row in nodes.items() if row["finish_reason"] == "length"}
        for one in candidates:
            steps = one["node_id"].split("/")
            path = {"/".join(steps[: i + 1]) for i in range(1, depth + 1)}
            one["finish_reason"] = "length" if cut & path else "stop"
    dropped: Counter[str] = Counter()
    for reason, holds in _rules(config, chosen, candidates):
        kept = []
        for one, drop in _in_turn(candidates, holds):
            dropped[reason] += drop
            if not drop:
                kept.append(one)
        candidates = kept
    rows: dict[str, list[Row]] = {}
    for one in candidates:
        digest = hashlib.md5(f"{chosen.seed}:{one['question_id']}".encode()).hexdigest()
        split = "validation" if int(digest[:8], 16) < int(chosen.validation * 16**8) else "train"
        rows.setdefault(split, []).append(_row(forest, config, one, nodes, questions))
    return rows, dropped


def _in_turn(candidates: list[Row], holds: Any) -> list[tuple[Row, bool]]:
    return [(one, bool(holds(one))) for one in candidates]


def _resting_on_a_timeout(nodes: dict[str, Row]) -> set[str]:
    found = set()
    for row in nodes.values():
        is_leaf = row["reward"] is not None
        one: Row | None = row if is_leaf and row["verdict"] == "timeout" else None
        while one:
            found.add(one["node_id"])
            one = nodes.get(one["parent_id"])
    return found


def _candidates(config: Config, nodes: dict[str, Row]) -> list[Row]:
    mine = [
        row
        for row in nodes.values()
        if (row["role"] == config.role if config.role else row["reward"] is not None)
    ]
    if config.format.name != "dpo":
        return [{**row, "parent": row["parent_id"] or row["question_id"]} for row in mine]
    return [
        {"chosen": a, "rejected": b, "parent": a["parent_id"] or a["question_id"],
         "question_id": a["question_id"]}
        for a in mine for b in mine
        if a["label"] and not b["label"] and a["question_id"] == b["question_id"]
        and a["parent_id"] == b["parent_id"]
    ]  # fmt: skip


def _rules(config: Config, chosen: Selection, candidates: list[Row]) -> list[tuple[str, Any]]:
    pairs = config.format.name == "dpo"
    found: list[tuple[str, Any]] = []
    if not chosen.keep_ungraded:
        found.append(("ungraded", lambda c: c["ungraded"]))
        candidates = [c for c in candidates if not c["ungraded"]]
    if config.format.name in ("sft", "trajectory"):
        found.append(("negative", lambda c: not c["label"]))
        if chosen.positives == "paired":
            paired = {c["parent"] for c in candidates if not c["label"]}
            found.append(("no_negative_sibling", lambda c: c["parent"] not in paired))
        if chosen.positives == "mixed":
            mixed = {c["question_id"] for c in candidates if not c["label"]}
            found.append(("no_negative", lambda c: c["question_id"] not in mixed))
    if pairs and not chosen.keep_identical:
        found.append(("identical", lambda c: c["chosen"]["text"] == c["rejected"]["text"]))
    if config.format.name == "kto" and not chosen.keep_identical:
        sides: dict[tuple[str, str], set[bool]] = {}
        for c in candidates:
            sides.setdefault((c["parent"], c["text"]), set()).add(c["label"])
        found.append(("identical", lambda c: len(sides[c["parent"], c["text"]]) > 1))
    if not chosen.keep_truncated and config.format.name in ("sft", "kto", "trajectory"):
        found.append(("truncated", lambda c: c["label"] and c["finish_reason"] == "length"))
    if not chosen.keep_truncated and pairs:
        found.append(("truncated", lambda c: c["chosen"]["finish_reason"] == "length"))
    if pairs and chosen.margin:
        found.append(
            (
                "margin",
                lambda c: round(c["chosen"]["value"] - c["rejected"]["value"], 9) < chosen.margin,
            )
        )
    return found


def _row(
    forest: Forest, config: Config, one: Row, nodes: dict[str, Row], questions: dict[str, Row]
) -> Row:
    leaf = one["chosen"] if config.format.name == "dpo" else one
    question = questions[leaf["question_id"]]
    above: list[Row] = []
    while (above[0] if above else leaf)["parent_id"]:
        above.insert(0, nodes[(above[0] if above else leaf)["parent_id"]])
    path = () if config.format.name == "trajectory" else tuple(row["text"] for row in above)
    spec = forest.manifest.spec
    prompt = render(
        spec.prompts, spec.pipeline, question["kind"], question["question"], question["choices"],
        path, plain=spec.chat_template.plain,
    )  # fmt: skip
    plain = isinstance(prompt, str)
    shown = prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
    common = {"prompt": shown, "question_id": leaf["question_id"]}
    if config.format.name == "dpo":
        sides: Row = {}
        for side in ("chosen", "rejected"):
            node = one[side]
            sides |= {side: _said(node["text"], plain), f"{side}_id": node["node_id"],
                      f"{side}_value": node["value"]}  # fmt: skip
        return common | sides
    text = leaf["text"]
    if config.format.name == "trajectory":
        text = "\n\n".join(row["text"] for row in [*above, leaf])
    label = {"label": leaf["label"]} if config.format.name == "kto" else {}
    named = {"node_id": leaf["node_id"], "value": leaf["value"]}
    return common | {"completion": _said(text, plain)} | named | label


def _said(text: str, plain: bool) -> Any:
    return text if plain else [{"role": "assistant", "content": text}]
