"""Grade by reasoning-gym's own `score_answer`, which rewards a partial success in part.

It knows what an answer's text does not show: that another route is as short, or that an assignment
satisfies all constraints. Only a worker of `pool.py` imports this module, and disarms the scorers
first, as some of them evaluate the answer.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from reasoning_gym import get_score_answer_fn

from malt_data.graders.harmless import disarm

disarm()

_GRIDS_OF_TUPLES = ("arc_agi", "rearc")
"""Tasks that compare with tuples in their metadata, which JSON stores as lists."""


def score(answer: str, question: Mapping[str, Any]) -> float:
    """Return the score, 0 to 1, of an answer to a question of the source `reasoning-gym:TASK`."""
    task = question["source"].removeprefix("reasoning-gym:")
    metadata = question["meta"]["metadata"]
    entry = {
        "question": question["question"],
        "answer": question["gold"] or None,
        "metadata": _as_tuples(metadata) if task in _GRIDS_OF_TUPLES else metadata,
    }
    return float(_scorer(task)(answer=answer, entry=entry))


@cache
def _scorer(task: str) -> Callable[..., Any]:
    scorer: Callable[..., Any] = get_score_answer_fn(task)
    return scorer


def _as_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_tuples(item) for key, item in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
