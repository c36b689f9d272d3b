"""One question, one setting: its passes, turn by turn, or its debate; every completion kept.

Seeds follow from the evaluation's seed, the question, the pass and the turn, not from the
setting, so that settings which ask the same thing get the same answer: what differs between two
settings is what they do differently. A `Memo` asks each such thing once.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from malt_data.engines import Completion, Engine, Messages, Request
from malt_data.evaluation.settings import Setting
from malt_data.graders import extract_answer
from malt_data.prompts.templates import Prompts, render
from malt_data.schemas.forest import Question
from malt_data.schemas.ids import node_seed
from malt_data.schemas.team import AdapterSets

OTHERS = (
    "These are the answers of other agents to the same question:\n\n{answers}\n\n"
    "Consider them carefully, then answer the question again in the form that was asked for."
)
"""What a debating agent is told after each round (Du et al. 2024, in our words)."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One completion: which pass (or agent) and turn (or round) of the setting it is."""

    pass_index: int
    turn: int
    role: str
    adapter: str | None
    messages: Messages
    completion: Completion
    answer: str | None


class Memo:
    """Asks an engine, each distinct request once; what is asked again waits for the same answer."""

    def __init__(
        self,
        engine: Engine,
        prompts: Prompts,
        temperature: float,
        max_tokens: int,
        on_completion: Callable[[Completion], None] = lambda _: None,
    ) -> None:
        """on_completion: called with each completion, once however many settings share it."""
        self.engine = engine
        self.on_completion = on_completion
        self.prompts = prompts
        self.temperature = temperature
        self.max_tokens = max_tokens
        self._asked: dict[str, asyncio.Task[Completion]] = {}

    async def ask(
        self, messages: Messages, seed: int, adapter: str | None, turn: int
    ) -> Completion:
        """Return the completion. Raises what the engine raises."""
        content = json.dumps([messages, seed, adapter])
        key = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        if key not in self._asked:
            request = Request(
                messages,
                (seed,),
                self.temperature,
                self.max_tokens,
                adapter,
                priority=-turn,  # finish the questions under way before starting others
            )
            self._asked[key] = asyncio.create_task(self._once(request))
        return await asyncio.shield(self._asked[key])

    async def close(self) -> None:
        """End what still runs; nobody waits for it any more."""
        for task in self._asked.values():
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)

    async def _once(self, request: Request) -> Completion:
        async with aclosing(self.engine.complete(request)) as samples:  # type: ignore[type-var]
            async for _, completion in samples:
                self.on_completion(completion)
                return completion
        raise RuntimeError("an engine ended without a completion")


async def play(
    question: Question,
    setting: Setting,
    seed: int,
    memo: Memo,
    team: AdapterSets,
    on_turn: Callable[[Turn], None] = lambda _: None,
) -> list[Turn]:
    """Return every turn of a setting on one question, pass by pass.

    on_turn: called with each as it is finished.
    """
    if setting.agents > 1:
        return await _debate(question, setting, seed, memo, team, on_turn)
    passes = [
        _pass(question, setting, seed, number, memo, team, on_turn)
        for number in range(setting.votes)
    ]
    return [turn for turns in await asyncio.gather(*passes) for turn in turns]


async def _pass(
    question: Question,
    setting: Setting,
    seed: int,
    number: int,
    memo: Memo,
    team: AdapterSets,
    on_turn: Callable[[Turn], None],
) -> list[Turn]:
    turns: list[Turn] = []
    texts: dict[str, str] = {}
    for place, role in enumerate(setting.turns):
        path = {
            "generator": (),
            "verifier": (texts.get("generator", ""),),
            "refiner": (texts.get("generator", ""), texts.get("verifier", "")),
        }[role]
        messages = render(memo.prompts, question.kind, question.question, question.choices, path)
        adapter = setting.adapter(role, team)
        sampled = _seed(question, seed, number, role)
        turn = await _turn(question, memo, number, place, role, adapter, messages, sampled)
        texts[role] = turn.completion.text
        turns.append(turn)
        on_turn(turn)
    return turns


async def _debate(
    question: Question,
    setting: Setting,
    seed: int,
    memo: Memo,
    team: AdapterSets,
    on_turn: Callable[[Turn], None],
) -> list[Turn]:
    role = setting.turns[0]
    adapter = setting.adapter(role, team)
    first = render(memo.prompts, question.kind, question.question, question.choices, ())
    chats: list[Messages] = [first] * setting.agents
    turns: list[Turn] = []
    for number in range(setting.rounds):
        spoken = await asyncio.gather(
            *(
                _turn(
                    question, memo, agent, number, role, adapter, chats[agent],
                    _seed(question, seed, agent, role, number),
                )
                for agent in range(setting.agents)
            )
        )  # fmt: skip
        turns += spoken
        for turn in spoken:
            on_turn(turn)
        texts = [turn.completion.text for turn in spoken]
        chats = [
            (
                *chats[agent],
                {"role": "assistant", "content": texts[agent]},
                {"role": "user", "content": OTHERS.replace("{answers}", _listed(texts, agent))},
            )
            for agent in range(setting.agents)
        ]
    return turns


def _seed(question: Question, seed: int, number: int, role: str, again: int = 0) -> int:
    """Return the sampling seed; `again`: rounds of a debate before this one."""
    return node_seed(seed, f"{question.question_id}/{number}/{role}{f'/{again}' if again else ''}")


def _listed(texts: list[str], own: int) -> str:
    others = [text for agent, text in enumerate(texts) if agent != own]
    return "\n\n".join(f"Agent {i}: {text}" for i, text in enumerate(others, 1))


async def _turn(
    question: Question,
    memo: Memo,
    number: int,
    place: int,
    role: str,
    adapter: str | None,
    messages: Messages,
    seed: int,
) -> Turn:
    completion = await memo.ask(messages, seed, adapter, place)
    answer = extract_answer(completion.text, question.kind, question.choices)
    return Turn(number, place, role, adapter, messages, completion, answer)
