"""Grade stored completions again, against the questions table.

    golds = Golds(forest, "auto")
    golds.grade(nodes, grader)    # answer, correct, verdict and reward recomputed

The `kind` in the table determines how an answer is extracted and compared, unless the forest is
labelled with an explicit grader.
"""

from typing import Any

import polars as pl

from malt_data.errors import ForestError, SpecError
from malt_data.forests.forest import Forest
from malt_data.graders import Grader, extract_answer, grade_columns, graded_as

GRADED = ("answer", "correct", "verdict", "reward")
"""The columns of `nodes` that depend only on a text and its question."""


class Golds:
    """The gold, choices and kind of each question.

    Raises ForestError if a gold is not graded right against itself, which would make every leaf
    wrong.
    """

    def __init__(self, forest: Forest, grader_name: str) -> None:
        self._deepest = len(forest.manifest.spec.pipeline.turns)
        self._rows: dict[str, tuple[str, list[str] | None, str]] = {}
        with Grader() as grader:
            for row in forest.questions().collect().iter_rows(named=True):
                gold, choices = row["gold"], row["choices"]
                try:
                    kind = graded_as(row["kind"], grader_name)
                except SpecError as error:
                    raise ForestError(
                        f"Question {row['question_id']} cannot be graded: {error} A newer "
                        "malt-data may know it: pip install -U malt-data"
                    ) from None
                if grader.grade(gold, gold, kind, choices) != "right":
                    raise ForestError(
                        f"The gold {gold!r} of question {row['question_id']} cannot be graded as "
                        f"'{kind}'. Use --grader auto, or build these questions separately."
                    )
                self._rows[row["question_id"]] = gold, choices, kind

    def grade(self, nodes: pl.DataFrame, grader: Grader) -> pl.DataFrame:
        """Return `nodes` (needs question_id, text, depth) with the columns GRADED recomputed."""
        grades: list[dict[str, Any]] = []
        for question_id, text, depth in nodes.select("question_id", "text", "depth").iter_rows():
            gold, choices, kind = self._rows[question_id]
            answer = extract_answer(text, kind, choices)
            verdict = grader.grade(answer, gold, kind, choices)
            grades.append(grade_columns(answer, verdict, leaf=depth == self._deepest))
        graded = pl.DataFrame(grades, schema={name: nodes.schema[name] for name in GRADED})
        return nodes.with_columns(graded)
