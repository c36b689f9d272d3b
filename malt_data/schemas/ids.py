"""Ids of questions and nodes, and the sampling seeds derived from them.

The id of a question is a hash of its content, so it is the same in every build and on every
machine. The id of a node is its path in the tree: `3f0c…/g0/v2/r1` is the second refinement of the
third verification of the first answer.

    >>> question_id("What is 2 + 2?", None)
    '5f5d63edee44763e'
    >>> child_id("5f5d63edee44763e/g0", "verifier", 2)
    '5f5d63edee44763e/g0/v2'
"""

import hashlib
import json
from collections.abc import Sequence


def question_id(question: str, choices: Sequence[str] | None) -> str:
    """Return a hash (16 hex digits) of text and choices.

    The gold answer is not included, so that a question with a corrected gold answer keeps its id
    and cannot end up in both train and test.
    """
    content = json.dumps([question, list(choices) if choices else None], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def child_id(parent: str, role: str, sample: int) -> str:
    """Return the id of child `sample` of `parent`, a node or question, in the turn of `role`."""
    return f"{parent}/{role[0]}{sample}"


def sampling_key(seed: int, question_id: str) -> str:
    """Return the sort key for sampling questions at random; `--limit K` takes the first K.

    It depends only on seed and question. So the same seed gives the same K questions in whatever
    order the source has them, and a larger K adds to those of a smaller one.
    """
    return hashlib.sha256(f"{seed}:{question_id}".encode()).hexdigest()


def node_seed(build_seed: int, node_id: str) -> int:
    """Return the sampling seed of one node, 0 ≤ seed < 2³¹ (what every engine accepts)."""
    digest = hashlib.sha256(f"{build_seed}:{node_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
