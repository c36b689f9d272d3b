"""Splitting thoughts from texts, and learning that a server's prompts open them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malt_data.engines.replies import Habits, completions
from malt_data.engines.thinking import TAGS, closes_only, opens, split

FORMS = {
    "a block": ("<think>\nhmm\n</think>\n\nseven", False, ("hmm", "seven")),
    "an open prompt": ("hmm\n</think>\nseven", True, ("hmm", "seven")),
    "an opening tag after an open prompt": ("<think>hmm</think>seven", True, ("hmm", "seven")),
    "closed only": ("hmm</think>seven", False, ("hmm", "seven")),
    "cut off": ("<think>hmm", False, ("hmm", "")),
    "cut off after an open prompt": ("hmm", True, ("hmm", "")),
    "an empty block": ("<think>\n\n</think>\n\nseven", False, (None, "seven")),
    "two blocks": ("<think>a</think>se<think>b</think>ven", False, ("a\n\nb", "seven")),
    "a second closing tag": ("<think>a</think>b</think>seven", False, ("a\n\nb", "seven")),
    "a block in a block": ("<think>a<think>b</think>seven", False, ("a\n\nb", "seven")),
    "a block at the end": ("seven<think>hmm", False, ("hmm", "seven")),
    "Magistral's": ("[THINK]hmm[/THINK]seven", False, ("hmm", "seven")),
    "Seed-OSS's": ("<seed:think>hmm</seed:think>seven", False, ("hmm", "seven")),
    "no thought": ("\n seven < eight \n", False, (None, "\n seven < eight \n")),
    "nothing": ("", False, (None, "")),
    "nothing after an open prompt": ("", True, (None, "")),
}


@pytest.mark.parametrize("form", FORMS)
def test_thoughts_of_every_form_are_taken_out(form: str) -> None:
    text, opened, expected = FORMS[form]
    assert split(text, opened=opened) == expected


_PIECES = st.sampled_from([*TAGS, *TAGS.values(), "a", "\n", "<think", "/think>", "[", " "])


@given(st.lists(_PIECES).map("".join), st.booleans())
def test_no_tag_is_left_and_nothing_but_tags_and_line_breaks_is_lost(
    text: str, opened: bool
) -> None:
    thinking, said = split(text, opened=opened)
    bare = text
    for tag in [*TAGS, *TAGS.values()]:
        assert tag not in said
        bare = bare.replace(tag, "\0")
    assert sorted(bare.replace("\0", "").replace("\n", "").replace(" ", "")) == sorted(
        ((thinking or "") + said).replace("\n", "").replace(" ", "")
    )


@pytest.mark.parametrize("text", ["<think>" * 200_000, "</think>" * 200_000, "<think>a" * 200_000])
def test_a_megabyte_of_tags_is_no_problem(text: str) -> None:
    started = time.monotonic()
    split(text)
    assert time.monotonic() - started < 5


def test_a_prompt_that_ends_within_a_thought_is_seen() -> None:
    assert opens("<|assistant|><think>\n")
    assert not opens("<|assistant|><think>\n\n</think>\n\n")
    assert closes_only("hmm</think>7")
    assert not closes_only("<think>hmm</think>7")


def reply(text: str, finish_reason: str = "stop", **message: str) -> dict[str, object]:
    choice = {"message": {"content": text, **message}, "finish_reason": finish_reason}
    return {"choices": [choice]}


def test_a_text_cut_off_within_a_thought_is_known_once_the_server_has_shown_its_habit() -> None:
    habits = Habits()

    def read(*args: str, **message: str) -> tuple[str | None, str]:
        (completion,) = completions(reply(*args, **message), [1], habits=habits)
        return completion.thinking, completion.text

    assert read("hmm", "length") == (None, "hmm")  # nothing says that this is a thought
    assert read("hmm</think>7") == ("hmm", "7")
    assert read("hmm", "length") == ("hmm", "")
    assert read("7", "stop") == (None, "7")
    assert read("7 is", "length", reasoning_content="hmm") == ("hmm", "7 is")


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_reasoning_parser_and_tags_may_come_together(field: str) -> None:
    found = completions(reply("<think>b</think>7", **{field: "\na\n"}), [1])
    assert [(each.thinking, each.text) for each in found] == [("a\n\nb", "7")]
