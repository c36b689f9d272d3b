"""Names of questions and nodes, and the seeds that follow from them.

An id is derived from content, so the same question has the same id in every build and on
every machine, and a node's id tells its place: `3f0c…/g0/v2/r1` is the second refinement of
the third verification of the first answer.

    >>> question_id("What is 2 + 2?", None)
    '5f5d63edee44763e'
    >>> child_id("5f5d63edee44763e/g0", 1, 2)
    '5f5d63edee44763e/g0/v2'
"""

import hashlib
import json
from collections.abc import Sequence

from malt_data.schemas.roles import ROLES


def question_id(question: str, choices: Sequence[str] | None) -> str:
    """Return 16 hexadecimal digits that stand for what is asked: text and choices, not gold.

    The gold is left out on purpose: a corrected gold is still the same question, and train
    and test must not both hold it.
    """
    content = json.dumps([question, list(choices) if choices else None], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def child_id(parent: str, depth: int, sample: int) -> str:
    """Return the id of child number `sample` of `parent`, a node of `depth` (0: the question)."""
    return f"{parent}/{ROLES[depth][0]}{sample}"


def sampling_key(seed: int, question_id: str) -> str:
    """Return the key by which questions are sorted for a random sample; `--limit K` takes K.

    It depends on seed and question alone: the same K for the same seed, and a larger K contains
    the smaller one's, whatever the order of the source.
    """
    return hashlib.sha256(f"{seed}:{question_id}".encode()).hexdigest()


def node_seed(build_seed: int, node_id: str) -> int:
    """Return the sampling seed of one node, 0 ≤ seed < 2³¹ (what every engine accepts)."""
    digest = hashlib.sha256(f"{build_seed}:{node_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
