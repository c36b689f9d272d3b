"""MALT's function T: the answer of a completion, and none for a truncated one."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_data.graders import extract_answer

ROOMS = ["kitchen", "garden shed", "attic", "shed"]

NUMERIC = [
    ("Two and three.\nFinal Answer: 5", "5"),
    ("final answer: 5.", "5"),
    ("Final Answer: Final Answer: 125", "125"),
    ("**Final Answer:** **5**", "5"),
    ("**Final Answer**\n\n5", "5"),
    ("### Final Answer\n5 pears", "5 pears"),
    ("The final answer is $5$.", "5"),
    ("The final answer to the problem is 5.", "5"),
    ("Final Answer: 4\nWait, no.\nFinal Answer: 5", "5"),
    ("Final Answer: The answer is **5**.", "5"),
    ("Final Answer: 5\n\nI checked it 3 times.", "5"),
    ("Final Answer: 5. The final answer is correct.", "5"),
    ("Final Answer:\n\n\\[\n\\boxed{5}\n\\]", "5"),
    ("Final Answer: $$\n5\n$$", "5"),
    ("Final Answer: 2.5 kg", "2.5 kg"),
    ('{"final answer": "5"}', "5"),
    ("2 + 3 (Final Answer: 5)", "5"),
    ("(Final Answer: $5$).", "5"),
    (r"First \boxed{4}, then \boxed{5}.", "5"),
    (r"\boxed{1} and \boxed{2}", "1, 2"),
    (r"\boxed{1} or \boxed{2}", "1 or 2"),
    (r"So \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
    (r"So \fbox{5}", "5"),
    (r"So \boxed 5.", "5"),
    (r"\boxed{4} then Final Answer: 5", "5"),
    ("2 + 3 = <<2+3=5>>5\n#### 5", "5"),
    ("#### 1. First\nWe add.\n#### 5", "5"),
    ("So the answer is 5.", "5"),
    ("2 + 3\nA: 5", "5"),
    ("2 + 3\n**Answer:** 5", "5"),
    ("2 + 3\n\nAnswer:\n5", "5"),
    ("5", "5"),
    ("$5.50", "$5.50"),
    ("5 pears", "5 pears"),
    ("<think>Final Answer: 4</think>\nFinal Answer: 5", "5"),
    ("<think>4?</think><answer>5</answer>", "5"),
    ("Final Answer: 5<|im_end|>\n<|im_start|>user\nFinal Answer: 6", "5"),
]

NO_ANSWER = [
    "",
    "   \n",
    "I do not know.",
    "Let me think. 3 + 4 = 7 and then",
    "We add 2 and 3, which gives 5. Next we",
    "Step 1: 5",
    "#### Step 2\nWe add 3",
    "Final Answer:",
    "So it is 5. **Final Answer:** **",
    r"It is 5, so \boxed{",
    r"\boxed{4} and then \boxed{5",
    r"The answer is \boxed{}.",
    "We want the final answer to be a whole number: 3 + 4 = 7, so",
    "<think>the answer is 5",
    "I checked it and the answer is correct.",
]

MATH = [
    ("$x+1$", "x+1"),
    ("x^2 + 1", "x^2 + 1"),
    (r"The solution is $x \leq 5$", r"x \leq 5"),
    ("Thus $x < 2$ is our answer.", "x < 2"),
    (r"Final Answer: $(0, 1)$, since $x$ is positive.", "(0, 1)"),
    (r"Final Answer: The function is $f(x) = x^2$.", "f(x) = x^2"),
    (r"Final Answer: $1$ and $2$", "$1$ and $2$"),
    (r"Final Answer: \text{Evelyn}", r"\text{Evelyn}"),
    ("Final Answer: 4:30 p.m.", "4:30 p.m."),
    (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    ("We have $x=3$ and then we need to", None),
    ("Let $x = 3$. Then $y = 4$. Now consider $z$", None),
    ("I think that", None),
    ("$", None),
]

CHOICE = [
    ("It is not A, so.\nFinal Answer: (D) shed", "(D) shed"),
    ("Final Answer: D, not A", "D, not A"),
    ("Therefore the answer is D.", "D"),
    ("Answer: D", "D"),
    (r"\boxed{\text{D}}", r"\text{D}"),
    ("D: shed", "D: shed"),
    ("garden shed", "garden shed"),
    ("A place such as the shed", None),
    ("A: kitchen is wrong. B: garden shed is", None),
    ("I would go with B", None),
]


@pytest.mark.parametrize(("text", "answer"), NUMERIC)
def test_numbers(text: str, answer: str) -> None:
    assert extract_answer(text, "numeric") == answer


@pytest.mark.parametrize("text", NO_ANSWER)
@pytest.mark.parametrize("kind", ["numeric", "math"])
def test_a_text_without_an_answer(text: str, kind: str) -> None:
    assert extract_answer(text, kind) is None


@pytest.mark.parametrize(("text", "answer"), MATH)
def test_formulas(text: str, answer: str | None) -> None:
    assert extract_answer(text, "math") == answer


@pytest.mark.parametrize(("text", "answer"), CHOICE)
def test_choices(text: str, answer: str | None) -> None:
    assert extract_answer(text, "choice", ROOMS) == answer


@given(st.text(max_size=200), st.integers(-(10**9), 10**9))
def test_the_last_marker_wins(before: str, number: int) -> None:
    text = before.replace("<", " ") + f"\nFinal Answer: {number}"
    assert extract_answer(text, "numeric") == str(number)


@given(st.text("Final Answer:is\\boxed{}#$()[]\n*12.<think>/", max_size=200))
def test_extraction_never_raises_and_is_deterministic(text: str) -> None:
    for kind in ("numeric", "math", "choice"):
        answer = extract_answer(text, kind, ROOMS)
        assert answer == extract_answer(text, kind, ROOMS)
        assert answer is None or answer.strip()


HOSTILE = [
    r"\boxed{", r"\boxed", "{", "}", "$", "$$", r"\[", r"\(", r"\\", "(", "####", "#", "*", " ",
    "\n", "Final Answer", "Final Answer:", "final answer to ", "the answer is ", "answer ", "A: ",
    "<think>", "</think>", "1 ", "9", "1,", "a", "a ", "Answer:\n", r"\text{", "or ", "is ", "…",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("kind", ["numeric", "math", "choice"])
def test_a_hostile_megabyte_takes_linear_time(piece: str, kind: str) -> None:
    text = piece * (1_000_000 // len(piece))
    start = time.process_time()
    for hostile in (text, r"\boxed{" + text):
        extract_answer(hostile, kind, ROOMS)
    assert time.process_time() - start < 8
