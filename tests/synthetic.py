"""Forests with known content, written with the same functions that a build uses."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from malt_data.forests.create import create_forest
from malt_data.forests.forest import Forest
from malt_data.forests.labels import node_table
from malt_data.graders import grade_columns
from malt_data.prompts.resolve import resolve_sampling
from malt_data.schemas.exports import all_configs
from malt_data.schemas.forest import Question
from malt_data.schemas.ids import child_id, question_id
from malt_data.schemas.pipeline import Pipeline, shipped
from malt_data.schemas.spec import BuildSpec

ROLES = shipped().roles
"""Of the shipped pipeline malt."""
ALL = all_configs(ROLES)
"""Every export of its forests."""


def make_forest(
    folder: Path, trees: int = 5, n: tuple[int, ...] = (2, 3, 2), seed: int = 0,
    timeouts: float = 0.0, **spec: Any,
) -> Forest:  # fmt: skip
    """Write a forest of `trees` trees in which about half of the answers are right, by `seed`.

    timeouts: the fraction of answers on which the grader timed out.
    """
    source = random.Random(seed)
    golds = [str(source.randrange(100)) for _ in range(trees)]
    texts = [f"Question {i} of {seed}?" for i in range(trees)]
    questions = [
        Question(question_id(text, None), "made", "train", text, None, gold, "numeric", None, "{}")
        for text, gold in zip(texts, golds, strict=True)
    ]
    resolved = resolve_sampling(BuildSpec(**{"engine": "openai", "model": "m", **spec}), None)
    turns = zip(resolved.pipeline.turns, n, strict=True)
    pipeline = resolved.pipeline.updated(turns=tuple(turn.updated(n=k) for turn, k in turns))
    resolved = resolved.model_copy(update={"pipeline": pipeline})
    facts = {"source": "made", "split": "train", "license": "mit", "refused": {"no gold": 1}}
    forest = create_forest(folder, resolved, questions, facts)
    for question in questions:
        rows = [
            row for g in range(n[0]) for row in _branch(question, (g,), pipeline, source, timeouts)
        ]
        places = {row["node_id"]: place for place, row in enumerate(rows)}
        for row in rows:
            row |= {"node": places[row["node_id"]], "parent": places.get(row["parent_id"])}
        forest.parts.write(node_table(rows, forest.manifest.labels))
    return forest


def begin(forest: Forest, beginnings: list[str]) -> None:
    """Prepend the beginnings to the nodes' texts, in rotation."""
    _change(forest, "text", lambda i, text: beginnings[i % len(beginnings)] + str(text))


def think(forest: Forest, thoughts: Sequence[str | None]) -> None:
    """Give the nodes these thoughts, in rotation."""
    _change(forest, "thinking", lambda i, _: thoughts[i % len(thoughts)])


def answer(forest: Forest, answers: Callable[[str], str | None]) -> None:
    """Give each node another answer, by its node_id; golds stay as they are, labels follow."""
    golds = dict(forest.questions().select("question_id", "gold").collect().iter_rows())
    for path in forest.parts.paths():
        rows = pq.read_table(path, partitioning=None).to_pylist()
        for row in rows:
            given = answers(row["node_id"])
            verdict = "right" if given == golds[row["question_id"]] else "wrong"
            row |= grade_columns(given, verdict, leaf=row["reward"] is not None)
        path.unlink()
        forest.parts.write(node_table(rows, forest.manifest.labels))


def _change(forest: Forest, column: str, change: Callable[[int, str | None], str | None]) -> None:
    """Replace a column of strings; `change` gets the index in the part and the value."""
    for path in forest.parts.paths():
        table = pq.read_table(path, partitioning=None)
        values = [change(i, value) for i, value in enumerate(table[column].to_pylist())]
        place = table.schema.get_field_index(column)
        changed = pa.array(values, pa.string())
        pq.write_table(table.set_column(place, table.schema.field(place), changed), path)


def _branch(
    question: Question,
    path: tuple[int, ...],
    pipeline: Pipeline,
    source: random.Random,
    timeouts: float,
) -> list[dict[str, Any]]:
    depth = len(path)
    name = question.question_id
    for level, sample in enumerate(path):
        parent, name = name, child_id(name, pipeline.turns[level].role, sample)
    answer = source.choice([question.gold, question.gold, "wrong", None, "1000"])
    verdict = "right" if answer == question.gold else "wrong"
    if timeouts and source.random() < timeouts:
        verdict = "timeout"
    row = {
        "question_id": question.question_id,
        "node_id": name,
        "parent_id": parent if depth > 1 else None,
        "role": pipeline.turns[depth - 1].role,
        "depth": depth,
        "sample": path[-1],
        "thinking": None,
        "extra": False,
        "cached_tokens": None,
        "text": "No idea." if answer is None else f"Thinking.\nFinal Answer: {answer}",
        "finish_reason": source.choice(["stop", "length"]),
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "model": "m",
        "adapter": None,
        "seed": source.randrange(2**31),
        "latency": 0.5,
    } | grade_columns(answer, verdict, leaf=depth == len(pipeline.turns))
    samples = range(pipeline.branching[depth]) if depth < len(pipeline.turns) else ()
    children = (_branch(question, (*path, i), pipeline, source, timeouts) for i in samples)
    return [row, *(node for child in children for node in child)]
