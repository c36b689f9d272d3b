"""Prompts in plain text: what each role sees, how they end, and where a text stops."""

import itertools

import pytest

from malt_data.graders import KINDS
from malt_data.prompts.resolve import PLAIN_STOP, resolve_sampling
from malt_data.prompts.templates import builtin, merge_prompts, render
from malt_data.schemas.pipeline import ChatTemplate, shipped
from malt_data.schemas.spec import BuildSpec

PLAIN = builtin("prompts_plain.toml")
TEXTS = ("QUESTION", " ANSWER", " VERIFICATION")


@pytest.mark.parametrize(("kind", "turn"), list(itertools.product(KINDS, range(3))))
def test_a_role_sees_what_came_before_after_the_examples(kind: str, turn: int) -> None:
    choices = ["bank", "library"] if kind == "choice" else None
    text = render(PLAIN, shipped(), kind, "QUESTION", choices, TEXTS[1 : turn + 1], plain=True)
    assert isinstance(text, str)
    examples, own = text.split("Question: QUESTION\n")
    assert [own.count(name) for name in TEXTS[1:]] == [int(turn > 0), int(turn > 1)]
    assert own.startswith("A. bank\nB. library\nAnswer:" if choices else "Answer:")
    assert text == text.rstrip()  # a text begins with the space
    assert own.count("\n") == turn + (2 if choices else 0)  # one line per text
    assert ("Final Answer:" in examples.split("\n\n")[0]) is True
    assert "{" not in text


def test_the_templates_can_be_copied_into_ones_own_file() -> None:
    assert merge_prompts(builtin(), PLAIN, shipped(), "mine.toml") == builtin() | PLAIN


def test_plain_text_stops_at_a_line_break_unless_told_otherwise() -> None:
    def resolved(**chat_template: object) -> BuildSpec:
        return resolve_sampling(
            BuildSpec(engine="openai", model="m", chat_template=ChatTemplate(**chat_template))
        )

    spec = resolved(plain=True)
    assert (spec.prompts, spec.chat_template.stop) == (PLAIN, PLAIN_STOP)
    assert resolve_sampling(spec) == spec
    assert resolved(plain=True, stop=[]).chat_template.stop == ()
    assert resolved(plain=True, stop=["\n\n"]).chat_template.stop == ("\n\n",)
    assert resolved().chat_template == ChatTemplate()
    plain = ChatTemplate(plain=True)
    pipeline = shipped().updated(chat_template=plain)
    spec = resolve_sampling(BuildSpec(engine="openai", model="m", pipeline=pipeline))
    assert spec.chat_template == plain.updated(stop=PLAIN_STOP)
