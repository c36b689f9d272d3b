"""Reward verl's rollouts as malt-data grades them, from an export in verl's layout.

    malt-data export --role generator --format value --layout verl
    # then, in the arguments of verl's trainer:
    #   reward.custom_reward_function.path=examples/verl_reward.py
    #   reward.custom_reward_function.name=compute_score

verl's own scores go by `data_source`, and know none of our prompts' `Final Answer: …`.
"""

from functools import cache
from typing import Any

from malt_data.graders import Grader, extract_answer


@cache
def _grader() -> Grader:
    return Grader()


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any], **_: Any
) -> float:
    """Return 1.0 if the answer of a completion equals the gold, else 0.0."""
    kind, choices = extra_info["kind"], extra_info["choices"]
    answer = extract_answer(solution_str, kind, choices)
    if answer is None:
        return 0.0
    return float(_grader().grade(answer, ground_truth, kind, choices) == "right")
