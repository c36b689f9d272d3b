"""Graders: from a completion to an answer, and from an answer to right, wrong or timed out.

    with Grader() as grader:
        answer = extract_answer("... Final Answer: 18 eggs", "numeric")
        grader.grade(answer, "18", "numeric")      # 'right'

A wrong verdict flips values, labels and pairs above its leaf and nobody sees it, so each kind of
answer has its own small grader (`kinds.py`): `numeric` (exact fractions), `choice` (one letter of
the question's own choices) and `math` (structure, exact values, then math-verify in a worker that
can be killed, `pool.py`). "timeout" is not "wrong": it says that nobody knows.
"""

from malt_data.graders.extract import extract_answer
from malt_data.graders.grader import AUTO, Grader, graded_as, graders, judged, require_grader
from malt_data.graders.kinds import KINDS, Kind, Unusable, Verdict

__all__ = [
    "AUTO",
    "KINDS",
    "Grader",
    "Kind",
    "Unusable",
    "Verdict",
    "extract_answer",
    "graded_as",
    "graders",
    "judged",
    "require_grader",
]
