"""The tasks of docs/results/natural hint at nothing and keep their splits apart."""

import runpy
from pathlib import Path

import pytest

TASKS = runpy.run_path(
    str(Path(__file__).parents[1] / "docs" / "results" / "natural" / "questions.py")
)


@pytest.mark.parametrize("task", sorted(TASKS["TASKS"]))
def test_no_question_is_in_both_splits(task: str) -> None:
    rows = TASKS["rows"](task)
    splits = [row["split"] for row in rows]
    assert (splits.count("train"), splits.count("test")) == (TASKS["TRAIN"], TASKS["TEST"])
    assert len({row["question"] for row in rows}) == len(rows)


@pytest.mark.parametrize("task", ["larger", *TASKS["YES_OR_NO"]])
def test_either_answer_is_right_as_often(task: str) -> None:
    rows = TASKS["rows"](task)
    first = sum(
        f"larger, {row['answer']} or" in row["question"] or row["answer"] == "Yes" for row in rows
    )
    assert abs(first / len(rows) - 0.5) < 0.05
