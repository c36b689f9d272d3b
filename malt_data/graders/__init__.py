"""Graders: extract the answer of a completion, and grade it as right, wrong or timed out.

    with Grader() as grader:
        answer = extract_answer("... Final Answer: 18 eggs", "numeric")
        grader.grade(answer, "18", "numeric")      # 'right'

A wrong verdict silently flips values, labels and pairs above its leaf, so each kind of answer has
its own small grader (`kinds.py`): `numeric` (exact fractions), `choice` (one letter of the
question's own choices), `math` (structure, exact values, then math-verify) and `reasoning_gym`
(the task's own score). `Grader("rewards.py:grade")` grades by a function of the user's own. What
may hang runs in a killable worker (`pool.py`). "timeout" is not "wrong": it means that the answer
could not be decided.
"""

from malt_data.graders.extract import extract_answer
from malt_data.graders.grader import Graded, Grader, grade_columns
from malt_data.graders.kinds import KINDS, TEXT, Kind, Unusable, Verdict, kind_of, require_kind
from malt_data.graders.names import (
    AUTO,
    graded_as,
    graders,
    is_own,
    label_of,
    require_grader,
    require_named,
)

__all__ = [
    "AUTO",
    "KINDS",
    "TEXT",
    "Graded",
    "Grader",
    "Kind",
    "Unusable",
    "Verdict",
    "extract_answer",
    "grade_columns",
    "graded_as",
    "graders",
    "is_own",
    "kind_of",
    "label_of",
    "require_grader",
    "require_kind",
    "require_named",
]
