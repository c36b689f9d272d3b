"""Compare the embedded model's chat template with plain text: answers in form, and right ones.

    python benchmarks/plain_text.py        # about ten minutes on two cores

A chain G → V → R, one sample per turn at temperature 0.3, over sums of two numbers up to 20 and
the questions of the embedded set's test split. `in form`: an answer was extracted; a verifier
begins with yes or no. On one machine:

|               |          | generator | | verifier | refiner | |
| questions     | prompts  | in form | right | in form | in form | right |
|---------------|----------|--------:|------:|--------:|--------:|------:|
| sums (100)    | chat     |    90 % |  37 % |    83 % |    89 % |  35 % |
|               | plain    |   100 % |  62 % |   100 % |    99 % |  62 % |
| numeric (69)  | chat     |    74 % |  30 % |    83 % |    74 % |  29 % |
|               | plain    |    99 % |  45 % |   100 % |    99 % |  54 % |
| choice (17)   | chat     |    71 % |  18 % |     0 % |    82 % |  24 % |
|               | plain    |   100 % |  24 % |   100 % |    94 % |  35 % |
"""

import asyncio
import random
import re
from collections.abc import Sequence

from malt_data.engines import Engine, Request
from malt_data.engines.opening import open_engine
from malt_data.graders import Grader, extract_answer
from malt_data.prompts.resolve import resolve_sampling
from malt_data.prompts.templates import render
from malt_data.questions.loading import load_questions
from malt_data.schemas.pipeline import ChatTemplate
from malt_data.schemas.spec import BuildSpec

Asked = tuple[str, str, Sequence[str] | None, str]
"""Kind, question, choices, gold."""


def sums(count: int) -> list[Asked]:
    source = random.Random(0)
    pairs = [(source.randint(1, 20), source.randint(1, 20)) for _ in range(count)]
    return [("numeric", f"What is {a} + {b}?", None, str(a + b)) for a, b in pairs]


def embedded(kind: str) -> list[Asked]:
    questions = load_questions("embedded", split="test").questions
    return [(q.kind, q.question, q.choices, q.gold) for q in questions if q.kind == kind]


async def measure(engine: Engine, spec: BuildSpec, asked: Sequence[Asked]) -> list[str]:
    """Return the line of each role: shares in form and right."""
    lines = []
    texts: list[tuple[str, ...]] = [()] * len(asked)
    with Grader() as grader:
        for turn in spec.pipeline.turns:

            async def sample(one: Asked, before: tuple[str, ...], seed: int) -> str:
                prompt = render(
                    spec.prompts, spec.pipeline, *one[:3], before, plain=spec.chat_template.plain
                )
                stop = spec.chat_template.stop
                request = Request(prompt, (seed,), 0.3, spec.max_tokens or 0, stop=stop)
                ((_, completion),) = [each async for each in engine.complete(request)]
                return completion.text

            new = await asyncio.gather(
                *(
                    sample(one, before, i)
                    for i, (one, before) in enumerate(zip(asked, texts, strict=True))
                )
            )
            texts = [(*before, text) for before, text in zip(texts, new, strict=True)]
            if turn.judges:
                share = sum(bool(re.match(r"\W*(yes|no)\b", text, re.I)) for text in new)
                lines.append(f"{turn.role}: {share / len(asked):.0%} in form")
                continue
            answers = [extract_answer(t, k, c) for t, (k, _, c, _) in zip(new, asked, strict=True)]
            right = sum(
                answer is not None and grader.grade(answer, gold, kind, choices) == "right"
                for answer, (kind, _, choices, gold) in zip(answers, asked, strict=True)
            )
            given = sum(answer is not None for answer in answers)
            lines.append(
                f"{turn.role}: {given / len(asked):.0%} in form, {right / len(asked):.0%} right"
            )
    return lines


async def main() -> None:
    engine = await open_engine(BuildSpec(concurrency=32))
    sets = {"sums": sums(100), "numeric": embedded("numeric"), "choice": embedded("choice")}
    for name, asked in sets.items():
        for chat in (ChatTemplate(), ChatTemplate(plain=True)):
            spec = resolve_sampling(BuildSpec(chat_template=chat))
            way = "plain text" if chat.plain else "chat template"
            print(f"{name} ({len(asked)}), {way}:", "; ".join(await measure(engine, spec, asked)))
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
