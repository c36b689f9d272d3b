"""What each role sees, and that no text can change the template."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_data.errors import SpecError
from malt_data.graders import KINDS
from malt_data.prompts.templates import load_prompts, render

FILES = ("prompts.toml", "prompts_embedded.toml")
TEXTS = ["QUESTION", "ANSWER", "VERIFICATION"]


@pytest.mark.parametrize(("file", "kind", "turn"), list(itertools.product(FILES, KINDS, range(3))))
def test_a_role_sees_what_came_before_and_nothing_later(file: str, kind: str, turn: int) -> None:
    choices = ["bank", "library"] if kind == "choice" else None
    messages = render(load_prompts(None, file), kind, "QUESTION", choices, TEXTS[1 : turn + 1])
    rendered = json.dumps(messages)
    for name in TEXTS[: turn + 1]:
        assert rendered.count(name) == 1
    for name in TEXTS[turn + 1 :]:
        assert name not in rendered
    assert ("A. bank\\nB. library" in rendered) == (kind == "choice")
    if turn != 1 and kind != "choice":
        assert "Final Answer:" in rendered


@given(st.text(), st.text())
def test_texts_are_inserted_verbatim_and_never_expanded(answer: str, verification: str) -> None:
    prompts = load_prompts(None)
    answer = "{verification}{question}" + answer
    text = render(prompts, "numeric", "{choices}", None, (answer, verification))[-1]["content"]
    template = prompts["numeric"]["refiner"]["user"]
    before, between = template.split("{question}")[0], template.split("{initial_answer}")[0]
    assert text.startswith(before + "{choices}")
    assert text[len(between) - len("{question}") + len("{choices}") :].startswith(answer)
    assert verification in text


def test_an_empty_verification_is_allowed() -> None:
    assert render(load_prompts(None), "math", "Q", None, ("A", ""))


def test_a_custom_file_overrides_one_template_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "custom.toml"
    path.write_text('[numeric.generator]\nsystem = "Be brief."\nuser = "Q: {question}"\n')
    prompts = load_prompts(path)
    assert render(prompts, "numeric", "1+1?", None, ()) == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Q: 1+1?"},
    )
    assert prompts["math"] == load_prompts(None)["math"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[verse.generator]\nuser = '{question}'", "unknown kind"),
        ("[numeric.painter]\nuser = '{question}'", "unknown role"),
        ("[numeric.generator]\nuser = 'Hello'", r"must show the generator \{question\}"),
        ("[numeric.verifier]\nuser = '{question}'", r"\{initial_answer\}"),
        ("[numeric.refiner]\nuser = '{question} {initial_answer}'", r"\{verification\}"),
        ("[choice.generator]\nuser = '{question}'", r"\{choices\}"),
        ("[numeric.generator]\nuser = '{question} {gold}'", r"unknown placeholder \{gold\}"),
        ("[numeric.generator]\nuser = '{question} {initial_answer}'", "comes before"),
        ("[numeric.generator]\nsystem = '{question}'", "needs a 'user'"),
        ("[numeric.generator]\nuser = 3", "strings"),
        ("[numeric]\ngenerator = 3", "must be a table"),
        ("numeric = [", "not valid TOML"),
    ],
)
def test_an_invalid_template_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "custom.toml"
    path.write_text(content)
    with pytest.raises(SpecError, match=message):
        load_prompts(path)
