"""Ids depend only on content and path."""

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from malt_data.schemas.ids import child_id, node_seed, question_id

choices = st.none() | st.lists(st.text(), min_size=1, max_size=5)


@given(st.text(), choices)
def test_a_question_id_is_16_hex_digits_and_ignores_python_types(
    text: str, options: list[str] | None
) -> None:
    name = question_id(text, options)
    assert len(name) == 16
    assert int(name, 16) >= 0
    assert name == question_id(text, tuple(options) if options else None)


@given(st.text(), st.text(), choices, choices)
def test_different_questions_have_different_ids(
    one: str, other: str, a: list[str] | None, b: list[str] | None
) -> None:
    assert (question_id(one, a) == question_id(other, b)) == ((one, a) == (other, b))


def test_ids_are_the_same_in_every_process() -> None:
    code = (
        "from malt_data.schemas.ids import *; "
        "print(question_id('à\\n', ['x']), node_seed(7, 'q/g0'))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert seen == {f"{question_id('à' + chr(10), ['x'])} {node_seed(7, 'q/g0')}\n"}


def test_a_node_id_is_its_path() -> None:
    assert (
        child_id(child_id(child_id("q", "generator", 2), "verifier", 0), "refiner", 11)
        == "q/g2/v0/r11"
    )


@given(st.integers(), st.text())
def test_seeds_fit_every_engine_and_differ_by_build(build: int, node: str) -> None:
    assert 0 <= node_seed(build, node) < 2**31
    assert node_seed(build, node) != node_seed(build + 1, node)
