"""Write the questions of the experiment: sums of three numbers for start.py, training and test.

    python docs/results/steps/questions.py start.jsonl questions.jsonl

No two questions have the same three numbers, in any order, so that no held-out question is a
training question with its numbers reordered.
"""

import itertools
import json
import random
import sys
from pathlib import Path

START, TRAIN, TEST = 160, 150, 250


def rows(seed: int = 0) -> list[dict[str, str]]:
    """Return {"question", "answer", "split"} rows, 560 in all, in random order."""
    source = random.Random(seed)
    found = list(itertools.combinations_with_replacement(range(2, 16), 3))
    source.shuffle(found)
    splits = ["start"] * START + ["train"] * TRAIN + ["test"] * TEST
    texts = (" + ".join(map(str, source.sample(numbers, 3))) for numbers in found)
    return [
        {"question": f"What is {text}?", "answer": str(sum(numbers)), "split": split}
        for numbers, text, split in zip(found, texts, splits, strict=True)
    ]


if __name__ == "__main__":
    for path, kept in ((sys.argv[1], {"start"}), (sys.argv[2], {"train", "test"})):
        lines = [json.dumps(row) for row in rows() if row["split"] in kept]
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
