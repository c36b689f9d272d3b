"""Graders: from a completion to an answer, and from an answer to right, wrong or timed out.

    with Grader() as grader:
        answer = extract_answer("... Final Answer: 18 eggs", "numeric")
        grader.grade(answer, "18", "numeric")      # 'right'

A wrong verdict flips values, labels and pairs above its leaf and nobody sees it, so each kind of
gold has its own small grader: `numeric` (exact fractions), `choice` (one letter of the question's
own choices) and `math` (structure, exact values, then math-verify in a worker that can be killed,
`pool.py`). "timeout" is not "wrong": it says that nobody knows.
"""

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, cast

from malt_data.graders import choice, math, numeric
from malt_data.graders.extract import Kind, extract_answer
from malt_data.graders.pool import Pool

Verdict = Literal["right", "wrong", "timeout"]
_Key = tuple[str, str, str, tuple[str, ...] | None]

MEMO_SIZE = 100_000

__all__ = ["Grader", "Kind", "Verdict", "extract_answer", "graded_as"]


def graded_as(kind: str, grader: str) -> Kind:
    """Return how answers to a question of `kind` are read and compared under `grader`."""
    return cast(Kind, kind if grader == "auto" else grader)


class Grader:
    """Grades answers against golds; safe to share between threads.

    `limit_s` is the wall-clock limit of one comparison by computer algebra, `workers` how many
    of them may run at once. No worker process exists before the first answer that needs one.
    """

    def __init__(self, limit_s: float = 5.0, workers: int = 1) -> None:
        self._pool = Pool(limit_s, workers)
        self._memo: dict[_Key, Verdict] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes; answers that need one can no longer be graded."""
        self._pool.close()

    def quick(
        self, answer: str | None, gold: str, kind: Kind, choices: Sequence[str] | None = None
    ) -> Verdict | None:
        """Return the verdict where it takes microseconds; None where `grade` must ask a worker."""
        if answer is None:
            return "wrong"
        if kind == "numeric":
            return _verdict(numeric.equal(answer, gold))
        if kind == "choice":
            return _verdict(choice.equal(answer, gold, choices or ()))
        key = _key(answer, gold, kind, choices)
        with self._lock:
            known = self._memo.get(key)
        if known is not None:
            return known
        equal = math.quick(answer, gold)
        if equal is not None:
            return self._remember(key, _verdict(equal))
        if math.too_costly(gold):  # then a costly answer may well be right: nobody knows
            return self._remember(key, "timeout")
        return self._remember(key, "wrong") if math.too_costly(answer) else None

    def grade(
        self, answer: str | None, gold: str, kind: Kind, choices: Sequence[str] | None = None
    ) -> Verdict:
        """Return the verdict on one answer; may block for about `limit_s` seconds."""
        verdict = self.quick(answer, gold, kind, choices)
        if verdict is not None or answer is None:
            return verdict or "wrong"
        equal = self._pool.equal(answer, gold)
        verdict = "timeout" if equal is None else _verdict(equal)
        return self._remember(_key(answer, gold, kind, choices), verdict)

    def _remember(self, key: _Key, verdict: Verdict) -> Verdict:
        with self._lock:
            if len(self._memo) >= MEMO_SIZE:
                del self._memo[next(iter(self._memo))]  # the oldest
            self._memo[key] = verdict
        return verdict


def _verdict(equal: bool) -> Verdict:
    return "right" if equal else "wrong"


def _key(answer: str, gold: str, kind: Kind, choices: Sequence[str] | None) -> _Key:
    return kind, gold, answer, None if choices is None else tuple(choices)
