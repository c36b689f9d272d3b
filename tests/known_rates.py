"""An engine that is right as often as it is told to be, and a build of its own questions.

engine = KnownRates(lambda die: die**3)      # few questions are often answered rightly
forest(engine, folder, trees=100)
"""

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np

from malt_data.engines import Completion, Gate, Request
from malt_data.schemas.spec import BuildSpec


class KnownRates:
    """Answers rightly at a rate that depends on the question, and on the text before.

    rate: maps a number in [0, 1], drawn for each question, to its rate. lengths: the fewest and the
    most tokens of a completion.
    """

    model = "known"

    def __init__(
        self, rate: Callable[[float], float], lengths: tuple[int, int] = (5, 60), places: int = 32
    ) -> None:
        self.gate = Gate(places)
        self.rate = rate
        self.lengths = lengths
        self.completions = 0

    async def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        prompt = json.dumps(request.prompt)
        question = self.rate(_die(str(request.tree)))
        spread = np.random.default_rng(int(2**32 * _die(prompt)))
        rate = spread.beta(max(1e-3, 8 * question), max(1e-3, 8 * (1 - question)))
        for sample, seed in enumerate(request.seeds):
            async with self.gate.slot(request.priority):
                dice = np.random.default_rng(abs(seed))
                self.completions += 1
                text = "Final Answer: 7" if dice.random() < rate else "Final Answer: 8"
                tokens = int(dice.integers(*self.lengths, endpoint=True))
                yield sample, Completion(text, "stop", len(prompt) // 4, tokens, seed)

    async def close(self) -> None:
        pass


def _die(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def spec(folder: Path, trees: int, **settings: object) -> BuildSpec:
    """Return the settings of a build over `trees` questions, whose answer is always 7."""
    path = folder / f"sevens_{trees}.jsonl"
    words = (" Think of apples." * (i * 7919 % 13) for i in range(trees))
    rows = (
        {"question": f"What is {i} less {i - 7}?{more}", "answer": "7"}
        for i, more in enumerate(words)
    )
    path.write_text("\n".join(map(json.dumps, rows)))
    given = {"questions": str(path), "engine": "known", "model": "known", "max_tokens": 64}
    return BuildSpec(**(given | settings))
