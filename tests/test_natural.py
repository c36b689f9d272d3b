"""The tasks of docs/results/natural hint at nothing and keep their splits apart."""

import runpy
from pathlib import Path

import polars as pl
import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "results" / "natural"
TASKS = runpy.run_path(str(FOLDER / "questions.py"))
BALANCED = runpy.run_path(str(FOLDER / "balanced.py"))


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


@pytest.mark.parametrize(
    ("prompt", "completion", "kind"),
    [
        ("Q: Is 3 greater than 2?\nA:", " Yes", "yes"),
        ("Q: Is 3 greater than 2?\nA: Yes\nRight?", " no, it is", "no"),
        ("Q: Which number is larger, 1 or 2?\nA: 2\n\nQ: … larger, 12 or 7?\nA:", " 12", "first"),
        ("Q: … larger, 12 or 7?\nA:", " 7\n", "second"),
        ("Q: … larger, 12 or 7?\nA:", " 127", ""),
        ("Q: … larger, 12 or 7?\nA:", " the first", ""),
    ],
)
def test_an_answer_is_yes_or_no_or_first_or_second(prompt: str, completion: str, kind: str) -> None:
    assert BALANCED["kind"](prompt, completion) == kind


def test_balanced_rows_have_as_many_of_either_answer_and_no_others() -> None:
    said = [" Yes"] * 7 + [" No"] * 3 + [" Perhaps"] * 2
    rows = pl.DataFrame({"prompt": ["Is it?"] * 12, "completion": said})
    kept = BALANCED["balanced"](rows)["completion"].to_list()
    assert kept == [" Yes"] * 3 + [" No"] * 3
    one_kind = rows.filter(pl.col("completion") == " Yes")
    assert len(BALANCED["balanced"](one_kind)) == 7
