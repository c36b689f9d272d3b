"""Grade stored completions again, against the questions table.

    golds = Golds(forest, grader)
    golds.grade(nodes)    # answer, correct, verdict and reward recomputed

The `kind` in the table determines how an answer is extracted and compared, unless the forest is
labelled with an explicit grader. Where a function grades, its golds are not checked.
"""

from typing import Any

import polars as pl

from malt_data.errors import ForestError, SpecError
from malt_data.forests.forest import Forest
from malt_data.graders import Grader, graded_as, kind_of

GRADED = ("answer", "correct", "verdict", "reward")
"""The columns of `nodes` that depend only on a text and its question."""


class Golds:
    """The gold, choices and kind of each question.

    Raises ForestError if a gold is not graded right against itself, which would make every leaf
    wrong.
    """

    def __init__(self, forest: Forest, grader: Grader) -> None:
        self._grader = grader
        self._deepest = len(forest.manifest.spec.pipeline.turns)
        self._rows: dict[str, dict[str, Any]] = {}
        for row in forest.questions().collect().iter_rows(named=True):
            gold = row["gold"]
            try:
                kind = graded_as(row["kind"], grader.name)
            except SpecError as error:
                raise ForestError(
                    f"Question {row['question_id']} cannot be graded: {error} If a function of "
                    "your own grades it, name it: --grader FILE.py:function. If a newer malt-data "
                    "does: pip install -U malt-data"
                ) from None
            by_function = grader.own or kind_of(kind).judge is not None
            if not by_function and grader.grade(gold, gold, kind, row["choices"]) != "right":
                raise ForestError(
                    f"The gold {gold!r} of question {row['question_id']} cannot be graded as "
                    f"'{kind}'. Use --grader auto, or build these questions separately."
                )
            self._rows[row["question_id"]] = row

    def grade(self, nodes: pl.DataFrame) -> pl.DataFrame:
        """Return `nodes` (needs question_id, text, depth) with the columns GRADED recomputed."""
        rows = nodes.select("question_id", "text", "depth").rows()
        if unknown := {name for name, *_ in rows} - {*self._rows}:
            raise ForestError(
                f"There is a tree of question {min(unknown)}, which is not in questions.parquet. "
                "Restore that file, or get the forest again."
            )
        graded = self._grader.judge_sync((text, self._rows[name]) for name, text, _ in rows)
        grades = [
            each.columns(leaf=depth == self._deepest)
            for each, (*_, depth) in zip(graded, rows, strict=True)
        ]
        columns = pl.DataFrame(grades, schema={name: nodes.schema[name] for name in GRADED})
        return nodes.with_columns(columns)
