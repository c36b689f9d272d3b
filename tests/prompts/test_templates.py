"""What each role sees, and that no text can change the template."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from chains import CRITICS
from hypothesis import given
from hypothesis import strategies as st

from malt_data.errors import SpecError
from malt_data.graders import KINDS
from malt_data.prompts.pipelines import find_pipeline
from malt_data.prompts.resolve import resolve_sampling
from malt_data.prompts.templates import builtin, render, require_prompts
from malt_data.schemas.pipeline import Pipeline, Prompts, shipped
from malt_data.schemas.spec import BuildSpec

FILES = ("prompts.toml", "prompts_embedded.toml", "prompts_plain.toml")
MALT = shipped()


def chat(prompts: Prompts, *asked: Any) -> list[dict[str, str]]:
    """Return the messages that a turn of MALT is prompted with."""
    messages = render(prompts, MALT, *asked)
    assert not isinstance(messages, str)
    return list(messages)


def custom_prompts(path: Path) -> Prompts:
    """Return the prompts of a build with --prompts."""
    return resolve_sampling(BuildSpec(engine="openai"), path).prompts


TEXTS = ["QUESTION", "ANSWER", "VERIFICATION"]


@pytest.mark.parametrize(("file", "kind", "turn"), list(itertools.product(FILES, KINDS, range(3))))
def test_a_role_sees_what_came_before_and_nothing_later(file: str, kind: str, turn: int) -> None:
    choices = ["bank", "library"] if kind == "choice" else None
    messages = chat(builtin(file), kind, "QUESTION", choices, TEXTS[1 : turn + 1])
    rendered = json.dumps(messages)
    for name in TEXTS[: turn + 1]:
        assert rendered.count(name) == 1
    for name in TEXTS[turn + 1 :]:
        assert name not in rendered
    assert ("A. bank\\nB. library" in rendered) == (kind == "choice")
    if turn != 1 and kind != "choice" and file != "prompts_plain.toml":
        assert "Final Answer:" in rendered


@given(st.text(), st.text())
def test_texts_are_inserted_verbatim_and_never_expanded(answer: str, verification: str) -> None:
    prompts = builtin()
    answer = "{verification}{question}" + answer
    text = chat(prompts, "numeric", "{choices}", None, (answer, verification))[-1]["content"]
    template = prompts["numeric"]["refiner"]["user"]
    before, between = template.split("{question}")[0], template.split("{initial_answer}")[0]
    assert text.startswith(before + "{choices}")
    assert text[len(between) - len("{question}") + len("{choices}") :].startswith(answer)
    assert verification in text


def test_a_built_in_template_that_would_show_a_placeholder_as_text_is_refused() -> None:
    """A chain of shipped roles without their aliases: {initial_answer} would be no text's name."""
    turns = [{"role": "generator"}, {"role": "verifier", "judges": True}, {"role": "refiner"}]
    bare = Pipeline(name="bare", turns=turns)
    prompts = resolve_sampling(BuildSpec(engine="openai", pipeline=bare), None).prompts
    with pytest.raises(SpecError, match=r"unknown placeholder \{initial_answer\}.*\{generator\}"):
        require_prompts(prompts, bare, {"numeric"})
    aliased = bare.updated(aliases=shipped().aliases)
    require_prompts(prompts, aliased, {"numeric", "math", "choice"})


def test_an_empty_verification_is_allowed() -> None:
    assert chat(builtin(), "math", "Q", None, ("A", ""))


def test_a_custom_file_overrides_one_template_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "custom.toml"
    path.write_text('[numeric.generator]\nsystem = "Be brief."\nuser = "Q: {question}"\n')
    prompts = custom_prompts(path)
    assert chat(prompts, "numeric", "1+1?", None, ()) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Q: 1+1?"},
    ]
    assert prompts["math"] == builtin()["math"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[numerc.generator]\nuser = '{question}'", r"Did you mean \[numeric\]"),
        ("[numeric.painter]\nuser = '{question}'", "unknown role"),
        ("[numeric.generator]\nuser = 'Hello'", r"must show the generator \{question\}"),
        ("[numeric.verifier]\nuser = '{question}'", r"\{initial_answer\}"),
        ("[numeric.refiner]\nuser = '{question} {initial_answer}'", r"\{verification\}"),
        ("[choice.generator]\nuser = '{question}'", r"\{choices\}"),
        ("[numeric.generator]\nuser = '{question} {gold}'", r"unknown placeholder \{gold\}"),
        ("[numeric.generator]\nuser = '{question} {initial_answer}'", "it speaks first"),
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
        custom_prompts(path)


# --- pipelines ------------------------------------------------------------------------------------

SOLVER = (
    CRITICS
    + """
[prompts.numeric.solver]
user = "{question} Solve it."
[prompts.numeric.critic]
user = "{question} Criticise: {solver}"
[prompts.numeric.again]
system = "You are careful."
user = "{question} You said {solver}, the critic {previous}. Solve it again."
"""
)


def own(path: Path, content: str = SOLVER) -> Path:
    (path / "own.toml").write_text(content)
    return path / "own.toml"


def resolved(path: Path, content: str = SOLVER) -> BuildSpec:
    return resolve_sampling(BuildSpec(engine="openai", pipeline=find_pipeline(own(path, content))))


def test_a_pipeline_of_ones_own_renders_the_texts_above(tmp_path: Path) -> None:
    spec = resolved(tmp_path)
    assert str(spec.chain) == "solver 2 → critic 3 → solver 3 (again)"
    assert spec.pipeline.judges == ("critic",)
    assert set(spec.prompts) == {"numeric"}  # the only kind with a template for every turn
    asked = spec.prompts, spec.pipeline, "numeric", "1+1?", None
    assert render(*asked, ("2",)) == ({"role": "user", "content": "1+1? Criticise: 2"},)
    assert render(*asked, ("2", "{solver}")) == (
        {"role": "system", "content": "You are careful."},
        {"role": "user", "content": "1+1? You said 2, the critic {solver}. Solve it again."},
    )
    plain = render(*asked, ("2", "No."), plain=True)
    assert plain == "You are careful.\n\n1+1? You said 2, the critic No.. Solve it again."


def test_a_role_is_the_nearest_one_above() -> None:
    malt2 = shipped("malt2")
    texts = ("G", "V", "R", "W")
    shown = [chat_of(malt2, texts[:turn]) for turn in range(1, 5)]
    for text, (answer, verification) in zip(
        shown, [("G", None), ("G", "V"), ("R", None), ("R", "W")], strict=True
    ):
        assert f"Initial Answer: {answer}" in text
        assert verification is None or f"Verification: {verification}" in text


def chat_of(pipeline: Any, texts: tuple[str, ...]) -> str:
    return json.dumps(render(builtin(), pipeline, "numeric", "Q?", None, texts)).replace(
        "\\n", "\n"
    )


def test_without_a_verifier_the_refiner_sees_an_empty_verification() -> None:
    text = chat_of(shipped("refine"), ("G",))
    assert "Initial Answer: G\nVerification: \n" in text


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('user = "{question} Solve it."', 'user = "{question} {critic}"', "it speaks first"),
        ("Criticise: {solver}", "Criticise.", r"must show the critic \{solver\}"),
        ("Criticise: {solver}", "{solver} {judge}", r"unknown placeholder \{judge\}.*\{previous\}"),
        ("{question} Criticise", "Criticise", r"must show the critic \{question\}"),
        ('role = "critic"', 'role = "Critic"', "should match pattern"),
        ('role = "critic"', 'role = "previous"', "meaning of its own"),
        ("[prompts.numeric.again]", "[prompts.numeric.agian]", r"unknown role \[numeric.agian\]"),
        (
            "[prompts.numeric.critic]",
            "[prompts.code.critic]",
            r"needs a template \[numeric.critic\]",
        ),
        ("n = 2", "n = 0", "greater than or equal to 1"),
        ("n = 2", "m = 2", "unknown setting 'm'"),
        ("[[turns]]", "[[turn]]", "turns"),
    ],
)
def test_a_pipeline_that_cannot_be_played_is_refused(
    before: str, after: str, message: str, tmp_path: Path
) -> None:
    assert before in SOLVER
    with pytest.raises(SpecError, match=message):
        resolved(tmp_path, SOLVER.replace(before, after))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "turns"),
        ("turns = 3", r"\[\[turns\]\] table"),
        ("turns = [3]", r"\[\[turns\]\] table"),
        ('[[turns]]\nrole = "a"\n' * 9, "at most 8"),
        ('[[turns]]\nrole = "a"\nn = 64\n' * 5, "lower n"),
        ('[[turns]]\nrole = "a"\n[aliases]\na = ["a"]', "is a role and an alias"),
        ('[[turns]]\nrole = "a"\n[aliases]\nb = ["c"]', "no turn has the role 'c'"),
        ('[[turns]]\nrole = "a"\n[chat_template]\nstop = [""]', "a stop string is empty"),
    ],
)
def test_an_invalid_pipeline_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        resolved(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_an_unknown_pipeline_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"Did you mean malt\?"):
        find_pipeline("mallt")
    with pytest.raises(SpecError, match="cannot be read"):
        find_pipeline(tmp_path / "none.toml")
