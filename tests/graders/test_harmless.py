"""A completion that reasoning-gym would evaluate as Python runs nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from malt_data.graders import Grader
from malt_data.graders.harmless import literal

EVALUATE_THE_ANSWER = (
    "binary_matrix", "countdown", "intermediate_integration", "n_queens",
    "polynomial_multiplication", "puzzle24", "simple_integration", "spiral_matrix",
    "string_insertion",
)  # fmt: skip


def asked(task: str, **metadata: Any) -> tuple[dict[str, Any], str]:
    """Return a question of a task, and an answer to it."""
    import reasoning_gym  # here, as the environment of vLLM, which collects all tests, lacks it

    entry = reasoning_gym.create_dataset(task, size=1, seed=1)[0]
    facts = json.loads(json.dumps({**entry["metadata"], **metadata}))
    question = {
        "question_id": "q", "source": f"reasoning-gym:{task}", "split": "train",
        "question": entry["question"], "choices": None, "gold": str(entry["answer"]),
        "kind": "reasoning_gym", "cluster": None, "meta": json.dumps({"metadata": facts}),
    }  # fmt: skip
    return question, str(entry["answer"])


def test_an_answer_that_is_python_is_not_run(tmp_path: Path) -> None:
    attacks = (
        f"__import__('pathlib').Path('{tmp_path}/a').touch()",
        f"open('{tmp_path}/b', 'w')",
        f"[open('{tmp_path}/c', 'w')]",
        "exec(" + "+".join(f"chr({ord(c)})" for c in f"open('{tmp_path}/d','w')") + ")",
        f"Symbol('x').__class__.__init__.__globals__['sys'].modules['os'].mkdir('{tmp_path}/e')",
    )
    with Grader() as grader:
        for task in EVALUATE_THE_ANSWER:
            question, answer = asked(task)
            texts = [f"Final Answer: {text}" for text in (*attacks, answer)]
            *attacked, right = grader.judge_sync((text, question) for text in texts)
            assert {graded.verdict for graded in attacked} <= {"wrong", "timeout"}, task
            assert right.verdict == "right", task
        problem = f"open('{tmp_path}/f', 'w')"
        question, answer = asked("bitwise_arithmetic", problem=problem)
        grader.judge_sync([(f"Final Answer: {answer}", question)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "value"), [("[1, [2]]", [1, [2]]), ("(0x1f - 0x3) * 2", 56)])
def test_lists_and_arithmetic_are_read(text: str, value: Any) -> None:
    assert literal(text) == value


@pytest.mark.parametrize("text", ["open('x')", "a", "(1).real", "abc(1)", "f'{1}'", "lambda: 1"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises((ValueError, SyntaxError)):
        literal(text)
