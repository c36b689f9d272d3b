"""Write trajectories as sessions that the Hub's trace viewer shows: a JSONL file each.

    with Traces(forest, folder) as traces:
        traces.write("train", rows)         # train/<question_id>-g0-v2-r1.jsonl, …

The format is the Hub's Session Trace Simple Format (huggingface.co/docs/hub/session-traces-format):
a header with the harness, then a message a line. A session is linear, so it has each turn's prompt
before its text. The viewer wants a repo or bucket without Parquet files; see `docs/layouts.md`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from malt_data.forests.forest import Forest
from malt_data.prompts.templates import Script

HARNESS = "malt-data"
_NODE = ("node_id", "text", "thinking", "model", "adapter")
_NAME_LENGTH = 80


class Traces:
    """A context manager that writes a session for each row of a `trajectory` export."""

    def __init__(self, forest: Forest, folder: Path) -> None:
        self._forest = forest
        self._folder = folder
        spec = forest.manifest.spec
        self._script = Script(spec.prompts, spec.pipeline)
        rows = forest.questions().collect(engine="streaming").iter_rows(named=True)
        self._questions = {row["question_id"]: row for row in rows}

    def __enter__(self) -> "Traces":
        return self

    def __exit__(self, *_: object) -> None:
        """Every session is written at once."""

    def write(self, split: str, rows: pa.Table) -> None:
        """Write the sessions of rows of a `trajectory` export into the folder of their split."""
        home = self._folder / split
        home.mkdir(exist_ok=True)
        asked = rows["question_id"].unique().to_pylist()
        found = self._forest.nodes().filter(pl.col("question_id").is_in(asked)).select(_NODE)
        nodes = {row["node_id"]: row for row in found.collect().iter_rows(named=True)}
        for row in rows.select(["question_id", "node_id", "value"]).to_pylist():
            lines = (json.dumps(line) for line in self._session(row, nodes))
            path = home / f"{row['node_id'].replace('/', '-')}.jsonl"
            path.write_text("".join(f"{line}\n" for line in lines), "ascii")

    def _session(
        self, row: dict[str, Any], nodes: dict[str, dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        question = self._questions[row["question_id"]]
        yield {
            "type": "session",
            "harness": HARNESS,
            "id": row["node_id"],
            "name": question["question"][:_NAME_LENGTH],
            "question_id": row["question_id"],
            "gold": question["gold"],
            "reward": row["value"],
        }
        steps = row["node_id"].split("/")
        texts: list[str] = []
        for depth in range(2, len(steps) + 1):
            node = nodes["/".join(steps[:depth])]
            asked = question["kind"], question["question"], question["choices"]
            for message in self._script.render(*asked, texts):
                yield {"type": "message", "message": message}
            yield {"type": "message", "message": _said(node)}
            texts.append(node["text"])


def _said(node: dict[str, Any]) -> dict[str, str]:
    model = node["model"] if node["adapter"] is None else f"{node['model']} + {node['adapter']}"
    said = {"role": "assistant", "content": node["text"], "model": model}
    return said | ({"reasoningContent": node["thinking"]} if node["thinking"] else {})


def read_session(path: Path) -> str:
    """Return the id of the question of a session; raise ValueError if a line is not one of it."""
    header, *lines = map(json.loads, path.read_text("utf-8").splitlines())
    if header["type"] != "session" or not all(line["type"] == "message" for line in lines):
        raise ValueError("not a session")
    return str(header["question_id"])
