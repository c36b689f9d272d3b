"""Passes and debates of a base model, whose prompts are plain text."""

import asyncio
from collections.abc import AsyncIterator

from malt_data.engines import Completion, Gate, Request
from malt_data.evaluation.play import OTHERS, Memo, Turn, play
from malt_data.evaluation.settings import find_settings
from malt_data.schemas.forest import Question
from malt_data.schemas.pipeline import ChatTemplate
from malt_data.schemas.spec import EvalSpec


class _Recording:
    """An engine that keeps its requests: no server completes plain text here."""

    model = "base"
    gate = Gate(8)

    def __init__(self) -> None:
        self.requests: list[Request] = []

    async def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        self.requests.append(request)
        text = f" text {len(self.requests)}"
        yield 0, Completion(text, "stop", None, None, request.seeds[0])

    async def close(self) -> None:
        pass


def test_a_base_model_is_sent_plain_text_with_its_stop_strings() -> None:
    prompts = {
        "numeric": {
            "generator": {"system": "Sums.", "user": "Q: {question}\nA:"},
            "verifier": {"user": "Q: {question}\nA:{initial_answer}\nRight?"},
            "refiner": {"user": "Q: {question}\nA:{initial_answer}\n{verification}\nSo:"},
        }
    }
    spec = EvalSpec(prompts=prompts, max_tokens=9,
                    chat_template=ChatTemplate(plain=True, stop=("\n\n",)))  # fmt: skip
    question = Question("q", "s", "", "1 + 2?", None, "3", "numeric", None, "{}")
    engine = _Recording()

    async def play_both() -> list[Turn]:
        memo = Memo(engine, spec)
        ma, debate = find_settings(["ma", "debate"])
        debate = debate.model_copy(update={"agents": 2, "rounds": 2})
        return [*await play(question, ma, 0, memo, {}), *await play(question, debate, 0, memo, {})]

    turns = asyncio.run(play_both())
    assert {request.stop for request in engine.requests} == {("\n\n",)}
    first = "Sums.\n\nQ: 1 + 2?\nA:"
    assert [turn.prompt for turn in turns[:3]] == [
        first,
        "Q: 1 + 2?\nA: text 1\nRight?",
        "Q: 1 + 2?\nA: text 1\n text 2\nSo:",
    ]
    agents = turns[3:]  # the first agent's first text is the generator's: text 1
    assert [turn.prompt for turn in agents] == [first, first] + [
        f"{first} text {own}\n\n" + OTHERS.replace("{answers}", f"Agent 1:  text {other}") + "\n\n"
        for own, other in ((1, 4), (4, 1))
    ]
