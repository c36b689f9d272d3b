"""Graders: extract the answer of a completion, and grade it as right, wrong or timed out.

    with Grader() as grader:
        answer = extract_answer("... Final Answer: 18 eggs", "numeric")
        grader.grade(answer, "18", "numeric")      # 'right'

A wrong verdict silently flips values, labels and pairs above its leaf, so each kind of answer has
its own small grader (`kinds.py`): `numeric` (exact fractions), `choice` (one letter of the
question's own choices) and `math` (structure, exact values, then math-verify in a killable worker,
`pool.py`). "timeout" is not "wrong": it means that the answer could not be decided.
"""

from malt_data.graders.extract import extract_answer
from malt_data.graders.grader import AUTO, Grader, grade_columns, graded_as, graders, require_grader
from malt_data.graders.kinds import KINDS, Kind, Unusable, Verdict, require_kind

__all__ = [
    "AUTO",
    "KINDS",
    "Grader",
    "Kind",
    "Unusable",
    "Verdict",
    "extract_answer",
    "grade_columns",
    "graded_as",
    "graders",
    "require_grader",
    "require_kind",
]
