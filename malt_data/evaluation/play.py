"""Play one setting on one question: its passes, turn by turn, or its debate.

Sampling seeds are derived from the evaluation's seed, the question, the pass and the turn, but not
from the setting. So settings that send the same request get the same completion, and two settings
differ only in what they do differently. A `Memo` sends each distinct request once.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from malt_data.engines import Completion, Engine, Prompt, Request
from malt_data.evaluation.settings import Setting
from malt_data.graders import extract_answer
from malt_data.prompts.templates import render
from malt_data.schemas.forest import Question
from malt_data.schemas.ids import node_seed
from malt_data.schemas.pipeline import Pipeline
from malt_data.schemas.spec import EvalSpec
from malt_data.schemas.team import AdapterSets

OTHERS = (
    "These are the answers of other agents to the same question:\n\n{answers}\n\n"
    "Consider them carefully, then answer the question again in the form that was asked for."
)
"""The message to each debating agent after a round (paraphrased from Du et al. 2024)."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One completion, with the pass (or agent) and turn (or round) that it belongs to."""

    pass_index: int
    turn: int
    role: str
    adapter: str | None
    prompt: Prompt
    completion: Completion
    answer: str | None


class Memo:
    """Sends each distinct request to the engine once; repeated requests share the completion."""

    def __init__(
        self,
        engine: Engine,
        spec: EvalSpec,
        on_completion: Callable[[Completion], None] = lambda _: None,
        tree: str = "",
    ) -> None:
        """spec: resolved. tree: as in a Request. on_completion: called once per completion,
        whatever shares it.
        """
        self.engine = engine
        self.spec = spec
        self.on_completion = on_completion
        self.tree = tree
        self._tasks: dict[str, asyncio.Task[Completion]] = {}

    async def ask(self, prompt: Prompt, seed: int, adapter: str | None, turn: int) -> Completion:
        """Return the completion of a request; exceptions of the engine propagate."""
        content = json.dumps([prompt, seed, adapter])
        key = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        if key not in self._tasks:
            request = Request(
                prompt,
                (seed,),
                adapter=adapter,
                priority=-turn,  # finish questions in progress before starting new ones
                tree=self.tree,
                **self.spec.request_options,
            )
            self._tasks[key] = asyncio.create_task(self._complete(request))
        return await asyncio.shield(self._tasks[key])

    async def close(self) -> None:
        """Cancel requests that are still running."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _complete(self, request: Request) -> Completion:
        async with aclosing(self.engine.complete(request)) as samples:  # type: ignore[type-var]
            async for _, completion in samples:
                self.on_completion(completion)
                return completion
        raise RuntimeError("the engine returned no completion")


async def play(
    question: Question,
    setting: Setting,
    seed: int,
    memo: Memo,
    team: AdapterSets,
    on_turn: Callable[[Turn], None] = lambda _: None,
) -> list[Turn]:
    """Play a setting on one question; return its turns, pass by pass.

    on_turn: called with each turn when it is finished.
    """
    if setting.agents > 1:
        return await _debate(question, setting, seed, memo, team, on_turn)
    passes = [
        _pass(question, setting, seed, index, memo, team, on_turn) for index in range(setting.votes)
    ]
    return [turn for turns in await asyncio.gather(*passes) for turn in turns]


async def _pass(
    question: Question,
    setting: Setting,
    seed: int,
    pass_index: int,
    memo: Memo,
    team: AdapterSets,
    on_turn: Callable[[Turn], None],
) -> list[Turn]:
    chain = memo.spec.pipeline.chain(setting.turns)
    turns: list[Turn] = []
    for index, role in enumerate(each.role for each in chain.turns):
        prompt = _prompt(question, memo.spec, chain, [turn.completion.text for turn in turns])
        spoken = sum(turn.role == role for turn in turns)
        turn_seed = _seed(question, seed, pass_index, role, spoken)
        adapter = setting.adapter(role, team)
        turn = await _turn(question, memo, pass_index, index, role, adapter, prompt, turn_seed)
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
    chain = memo.spec.pipeline.chain(setting.turns)
    role = chain.turns[0].role
    adapter = setting.adapter(role, team)
    prompts = [_prompt(question, memo.spec, chain, ())] * setting.agents
    turns: list[Turn] = []
    for round_index in range(setting.rounds):
        round_turns = await asyncio.gather(
            *(
                _turn(
                    question, memo, agent, round_index, role, adapter, prompts[agent],
                    _seed(question, seed, agent, role, round_index),
                )
                for agent in range(setting.agents)
            )
        )  # fmt: skip
        turns += round_turns
        for turn in round_turns:
            on_turn(turn)
        texts = [turn.completion.text for turn in round_turns]
        prompts = [
            _continued(prompts[agent], texts[agent], _listed(texts, agent))
            for agent in range(setting.agents)
        ]
    return turns


def _seed(question: Question, seed: int, pass_index: int, role: str, spoken: int) -> int:
    """Return the sampling seed of a turn. spoken: how often the role spoke before in this pass."""
    suffix = f"/{spoken}" if spoken else ""
    return node_seed(seed, f"{question.question_id}/{pass_index}/{role}{suffix}")


def _prompt(question: Question, spec: EvalSpec, chain: Pipeline, texts: Sequence[str]) -> Prompt:
    return render(
        spec.prompts,
        chain,
        question.kind,
        question.question,
        question.choices,
        texts,
        plain=spec.chat_template.plain,
    )


def _continued(prompt: Prompt, own: str, others: str) -> Prompt:
    """Return an agent's next prompt in a debate: what it said, and what the others did."""
    message = OTHERS.replace("{answers}", others)
    if isinstance(prompt, str):
        return f"{prompt}{own}\n\n{message}\n\n"
    return (
        *prompt,
        {"role": "assistant", "content": own},
        {"role": "user", "content": message},
    )


def _listed(texts: list[str], own: int) -> str:
    others = [text for agent, text in enumerate(texts) if agent != own]
    return "\n\n".join(f"Agent {i}: {text}" for i, text in enumerate(others, 1))


async def _turn(
    question: Question,
    memo: Memo,
    pass_index: int,
    turn_index: int,
    role: str,
    adapter: str | None,
    prompt: Prompt,
    seed: int,
) -> Turn:
    completion = await memo.ask(prompt, seed, adapter, turn_index)
    answer = extract_answer(completion.text, question.kind, question.choices)
    return Turn(pass_index, turn_index, role, adapter, prompt, completion, answer)
