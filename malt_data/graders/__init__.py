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

The names are listed once, in `__init__.pyi`. Each loads what it needs when it is first used, as
commands that only look at a forest need the names of graders and nothing else.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
