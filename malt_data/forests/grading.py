"""Stored completions graded again, by what the questions table says of each question.

    golds = Golds(forest, "auto")
    golds.grade(nodes, grader)    # answer, correct, verdict and reward made anew

The table's `kind` decides how an answer is read and compared, unless the forest is labelled by a
grader named on the command line: what is stored is what is graded by.
"""

from typing import Any

import polars as pl

from malt_data.errors import ForestError
from malt_data.forests.forest import Forest
from malt_data.graders import Grader, extract_answer, graded_as, judged
from malt_data.schemas.roles import ROLES

GRADED = ("answer", "correct", "verdict", "reward")
"""The columns of `nodes` that follow from a text and its question alone."""


class Golds:
    """What grading needs of each question.

    Raises ForestError where a gold does not grade equal to itself: every leaf under it would be
    wrong.
    """

    def __init__(self, forest: Forest, grader_name: str) -> None:
        self._rows: dict[str, tuple[str, list[str] | None, str]] = {}
        with Grader() as grader:
            for row in forest.questions().collect().iter_rows(named=True):
                gold, choices = row["gold"], row["choices"]
                kind = graded_as(row["kind"], grader_name)
                if grader.grade(gold, gold, kind, choices) != "right":
                    raise ForestError(
                        f"The gold {gold!r} of question {row['question_id']} cannot be graded as "
                        f"'{kind}'. Use --grader auto, or build these questions by themselves."
                    )
                self._rows[row["question_id"]] = gold, choices, kind

    def grade(self, nodes: pl.DataFrame, grader: Grader) -> pl.DataFrame:
        """Return `nodes` (needs question_id, text, depth) with the columns GRADED made anew."""
        judgements: list[dict[str, Any]] = []
        for question_id, text, depth in nodes.select("question_id", "text", "depth").iter_rows():
            gold, choices, kind = self._rows[question_id]
            answer = extract_answer(text, kind, choices)
            verdict = grader.grade(answer, gold, kind, choices)
            judgements.append(judged(answer, verdict, leaf=depth == len(ROLES)))
        fresh = pl.DataFrame(judgements, schema={name: nodes.schema[name] for name in GRADED})
        return nodes.with_columns(fresh)
