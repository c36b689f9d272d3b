"""The columns of an evaluation: `eval/1`.

`completions/part-*.parquet` has one row per completion of every setting, seed and question.
`predictions.parquet` has one row per setting, seed and question and is computed from it. Its
columns `ROLE_answer` are null in pipelines without that role; where it speaks several times, they
have its last answer.
"""

import pyarrow as pa

STAMP = b"eval/1"
_stamp = {b"malt.schema": STAMP}


def _column(name: str, kind: pa.DataType, doc: str, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"doc": doc})


_unit = [
    _column("setting", pa.string(), "sa, ma+mv, malt+mv, …"),
    _column("seed", pa.int64(), "seed of the evaluation's run"),
    _column("question_id", pa.string(), "the question"),
]

COMPLETIONS = pa.schema(
    [
        *_unit,
        _column("pass", pa.int16(), "which vote, or which agent of a debate, from 0"),
        _column("turn", pa.int16(), "turn of the pass, or round of the debate, from 0"),
        _column("role", pa.string(), "who spoke"),
        _column("adapter", pa.string(), "LoRA adapter; null: the base model", null=True),
        _column("messages", pa.string(), "JSON: the chat that the model was given"),
        _column("text", pa.string(), "the completion without its thinking"),
        _column("answer", pa.string(), "answer extracted from text", null=True),
        _column("correct", pa.bool_(), "answer equals gold; null: not gradable", null=True),
        _column("verdict", pa.string(), "right, wrong, unanswered or timeout"),
        _column("finish_reason", pa.string(), "stop, length, …"),
        _column("prompt_tokens", pa.int32(), "as the engine counted", null=True),
        _column("completion_tokens", pa.int32(), "as the engine counted", null=True),
        _column("sampling_seed", pa.int64(), "seed asked of the engine", null=True),
        _column("latency", pa.float64(), "seconds in the engine, its queue excluded", null=True),
        # Missing in older files.
        _column("thinking", pa.string(), "what a reasoning model thought before it", null=True),
        _column("cached_tokens", pa.int32(), "prompt tokens that were not computed", null=True),
    ],
    metadata=_stamp,
)

PREDICTIONS = pa.schema(
    [
        *_unit,
        _column("answer", pa.string(), "after the vote; null: nobody answered", null=True),
        _column("correct", pa.bool_(), "answer equals gold; null: not gradable", null=True),
        _column("votes", pa.list_(pa.string()), "the passes' answers in order, null among them"),
        _column("generator_answer", pa.string(), "of the first pass", null=True),
        _column("verifier_answer", pa.string(), "of the first pass", null=True),
        _column("refiner_answer", pa.string(), "of the first pass", null=True),
        _column("prompt_tokens", pa.int64(), "of all completions of the unit", null=True),
        _column("completion_tokens", pa.int64(), "of all completions of the unit", null=True),
        _column("seconds", pa.float64(), "latencies added up along its longest pass"),
        _column(
            "same_as",
            pa.list_(pa.list_(pa.int16())),
            "turn by turn: the pass that first gave each pass's answer; null: it gave none",
            null=True,  # missing in older files, for which it is computed when they are read
        ),
    ],
    metadata=_stamp,
)
