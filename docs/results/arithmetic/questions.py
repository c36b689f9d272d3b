"""Write the questions of the experiment: 430 small sums, differences and products, half held out.

    python docs/results/arithmetic/questions.py questions.jsonl

Every sum and product appears in one order only, so that no held-out question is a training question
with its operands swapped.
"""

import itertools
import json
import random
import sys
from pathlib import Path

TRAIN = 200


def rows(seed: int = 0) -> list[dict[str, str]]:
    """Return {"question", "answer", "split"} rows in random order."""
    source = random.Random(seed)
    turned = lambda pair: source.sample(pair, 2)  # noqa: E731
    sums = [turned(pair) for pair in itertools.combinations_with_replacement(range(2, 21), 2)]
    products = [turned(pair) for pair in itertools.combinations_with_replacement(range(2, 13), 2)]
    found = [(f"What is {a} + {b}?", a + b) for a, b in sums]
    found += [(f"What is {a} times {b}?", a * b) for a, b in products]
    found += [(f"What is {a} - {b}?", a - b) for a in range(4, 21) for b in range(2, a)]
    source.shuffle(found)
    return [
        {"question": text, "answer": str(gold), "split": "train" if number < TRAIN else "test"}
        for number, (text, gold) in enumerate(found)
    ]


if __name__ == "__main__":
    lines = [json.dumps(row) for row in rows()]
    Path(sys.argv[1]).write_text("\n".join(lines) + "\n", encoding="utf-8")
