"""The columns of a forest: `forest/2`.

`questions.parquet` has one row per question, `nodes/part-*.parquet` one row per node; a tree is
never split over parts. A released version never changes (tests/schemas freezes it); a new version
adds a step to `versions.py`.

    >>> NODES.field("value").metadata[b"doc"].decode()
    'reward of a leaf, else mean over the children (MALT §4.2)'
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

NAME = "forest"
VERSION = 2
SCHEMA_KEY = b"malt.schema"
"""Key in the footer metadata of every Parquet file; its value is `forest/2`."""


def _column(name: str, kind: pa.DataType, doc: str, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"doc": doc})


_role = pa.dictionary(pa.int8(), pa.string())

_stamp = {SCHEMA_KEY: f"{NAME}/{VERSION}".encode()}

QUESTIONS = pa.schema(
    [
        _column("question_id", pa.string(), "16 hex digits derived from question and choices"),
        _column("source", pa.string(), "where it came from, e.g. gsm8k or a file's name"),
        _column("split", pa.string(), "train, test, … as the source calls it"),
        _column("question", pa.string(), "the text asked"),
        _column("choices", pa.list_(pa.string()), "texts of A, B, …; null: free-form", null=True),
        _column("gold", pa.string(), "canonical gold answer; a letter where there are choices"),
        _column("kind", pa.string(), "numeric, choice, math, …: the prompt and grader it gets"),
        _column("cluster", pa.string(), "template it was made from; null: its own", null=True),
        _column("meta", pa.string(), "JSON: level, subject, the full gold solution, …"),
    ],
    metadata=_stamp,
)

NODES = pa.schema(
    [
        _column("question_id", pa.string(), "the tree it belongs to"),
        _column("node", pa.int32(), "its index in the tree, from 0; parents before children"),
        _column("parent", pa.int32(), "the parent's index; null in the first turn", null=True),
        _column("node_id", pa.string(), "unique and readable: <question_id>/g0/v2/r1"),
        _column("parent_id", pa.string(), "the parent's node_id; null: first turn", null=True),
        _column("role", _role, "who spoke"),
        _column("depth", pa.int8(), "the turn: 1, 2, 3, …"),
        _column("sample", pa.int16(), "index among its siblings, from 0"),
        _column("text", pa.string(), "the completion without its thinking"),
        _column("thinking", pa.string(), "what a reasoning model thought before it", null=True),
        _column("answer", pa.string(), "answer extracted from text; null: none", null=True),
        _column("correct", pa.bool_(), "answer equals gold; null: could not be graded", null=True),
        _column("verdict", pa.string(), "right, wrong, unanswered or timeout (of the grader)"),
        _column(
            "reward",
            pa.float64(),
            "leaf: 0 to 1, by default 1 if right; null above",
            null=True,
        ),
        _column("value", pa.float64(), "reward of a leaf, else mean over the children (MALT §4.2)"),
        _column("label", pa.bool_(), "value > threshold, strictly (MALT §4.2)"),
        _column("leaves", pa.int32(), "leaves under it (1 for a leaf): samples behind its value"),
        _column("extra", pa.bool_(), "sampled because of what was seen: in no mean above it"),
        _column("finish_reason", pa.string(), "stop, length, … as the engine said"),
        _column("prompt_tokens", pa.int32(), "as the engine counted; null: it did not", null=True),
        _column("completion_tokens", pa.int32(), "as the engine counted", null=True),
        _column("cached_tokens", pa.int32(), "prompt tokens that were not computed", null=True),
        _column("model", pa.string(), "what produced it"),
        _column("adapter", pa.string(), "LoRA adapter on top of the model", null=True),
        _column("seed", pa.int64(), "sampling seed asked of the engine", null=True),
        _column("latency", pa.float64(), "seconds in the engine, its queue excluded", null=True),
    ],
    metadata=_stamp,
)


@dataclass(frozen=True, slots=True)
class Question:
    """One task with a gold answer: a row of QUESTIONS."""

    question_id: str
    source: str
    split: str
    question: str
    choices: tuple[str, ...] | None
    gold: str
    kind: str
    cluster: str | None
    meta: str


def question_table(questions: Sequence[Question]) -> pa.Table:
    """Return questions as a table in the stored schema."""
    columns = {
        field.name: pa.array([getattr(question, field.name) for question in questions], field.type)
        for field in QUESTIONS
    }
    return pa.table(columns, schema=QUESTIONS)
