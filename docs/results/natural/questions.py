"""Write the questions of the tasks, two thirds for training.

    python docs/results/natural/questions.py larger larger.jsonl        # not evaluated yet
    python docs/results/natural/questions.py larger larger.jsonl 1      # those of the first team

larger      which of two numbers of three digits is larger: a hidden prior, as the model names the
            first far too seldom, though its odds know better
greater     is a number greater than another, yes or no: the same for yes
shopping    boxes, rows and prices, which can be answered at once or worked out: two ways
bulk        the same with larger numbers, so that the better way alone is not enough
divisible   is a number divisible by 7, yes or no: the control, of which the model knows nothing

Nothing in a question hints at its answer: the larger number comes first in half of them, and half
of the answers are yes.
"""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

TRAIN, TEST = 240, 400
Question = tuple[str, str]
"""Text and gold answer."""

_PACKED = [
    ("boxes", "books"), ("bags", "apples"), ("packs", "pencils"), ("trays", "eggs"),
    ("shelves", "jars"), ("rows", "chairs"), ("tables", "plates"), ("cartons", "bottles"),
]  # fmt: skip


def larger(source: random.Random) -> Question:
    a, b = _two(source)
    return f"Which is larger, {a} or {b}?", str(max(a, b))


def greater(source: random.Random) -> Question:
    a, b = _two(source)
    return f"Is {a} greater than {b}?", "Yes" if a > b else "No"


def shopping(source: random.Random, fewest: int = 2, most: int = 9) -> Question:
    holders, things = source.choice(_PACKED)
    a, b = source.randint(2, 9), source.randint(fewest, most)
    texts = [
        f"{a} {holders} with {b} {things} each. How many {things}?",
        f"{a} {things} cost {b} dollars each. How much do they cost?",
    ]
    return source.choice(texts), str(a * b)


def bulk(source: random.Random) -> Question:
    return shopping(source, 6, 14)


def divisible(source: random.Random) -> Question:
    number = 7 * source.randint(15, 1_400)
    if source.random() < 0.5:
        return f"Is {number} divisible by 7?", "Yes"
    return f"Is {number + source.randint(1, 6)} divisible by 7?", "No"


TASKS: dict[str, Callable[[random.Random], Question]] = {
    task.__name__: task for task in (larger, greater, shopping, bulk, divisible)
}


YES_OR_NO = ("greater", "divisible")
UNSEEN = {"larger": 2, "greater": 2, "shopping": 2, "bulk": 3, "divisible": 2}


def rows(task: str, seed: int | None = None) -> list[dict[str, str]]:
    """Return {"question", "answer", "split"} rows, no question in both splits.

    Yes-or-no questions have a `kind` of their own. seed: the first that no team was evaluated on.
    """
    source = random.Random(f"{task} {UNSEEN[task] if seed is None else seed}")
    found: dict[str, str] = {}
    while len(found) < TRAIN + TEST:
        text, gold = TASKS[task](source)
        found.setdefault(text, gold)
    kind = {"kind": "yesno"} if task in YES_OR_NO else {}
    return [
        {"question": text, "answer": gold, "split": "train" if place < TRAIN else "test", **kind}
        for place, (text, gold) in enumerate(found.items())
    ]


def _two(source: random.Random) -> tuple[int, int]:
    a, b = source.sample(range(100, 1000), 2)
    return a, b


if __name__ == "__main__":
    task, file, *seed = sys.argv[1:]
    lines = [json.dumps(row) for row in rows(task, *map(int, seed))]
    Path(file).write_text("\n".join(lines) + "\n", encoding="utf-8")
