"""From an answer to a verdict: right, wrong or timed out, each comparison made once.

with Grader() as grader:
    grader.grade("18 eggs", "18", "numeric")      # 'right'
"""

import asyncio
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from malt_data.errors import SpecError
from malt_data.graders.kinds import KINDS, Verdict
from malt_data.graders.pool import Pool

AUTO = "auto"
"""The grader that goes by each question's own kind."""
MEMO_SIZE = 100_000

_Key = tuple[str, str, str, tuple[str, ...] | None]


def graders() -> list[str]:
    """Return what `--grader` may be: auto, or one kind for all questions."""
    return [AUTO, *KINDS]


def require_grader(name: str) -> None:
    """Raise SpecError for a grader that there is none of."""
    if name not in graders():
        raise SpecError(f"There is no grader {name!r}. One of: {', '.join(graders())}.")


def graded_as(kind: str, grader: str) -> str:
    """Return the kind as which answers to a question of `kind` are read under `grader`.

    Raises SpecError where there is no such grader.
    """
    require_grader(grader)
    return kind if grader == AUTO else grader


def judged(answer: str | None, verdict: str, *, leaf: bool) -> dict[str, Any]:
    """Return the columns that follow from grading one answer.

    A time-out of the grader is not a wrong answer: `correct` stays null and `verdict` says so.
    The reward of such a leaf is 0, since its answer was not shown to equal the gold.
    """
    right = verdict == "right"
    return {
        "answer": answer,
        "correct": None if verdict == "timeout" else right,
        "verdict": "unanswered" if answer is None else verdict,
        "reward": float(right) if leaf else None,
    }


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
        self, answer: str | None, gold: str, kind: str, choices: Sequence[str] | None = None
    ) -> Verdict | None:
        """Return the verdict where it takes microseconds; None where `grade` must ask a worker."""
        if answer is None:
            return "wrong"
        form = KINDS[kind]
        if not form.slow:
            return form.quick(answer, gold, choices or ())
        key = _key(answer, gold, kind, choices)
        with self._lock:
            known = self._memo.get(key)
        if known is not None:
            return known
        verdict = form.quick(answer, gold, choices or ())
        return verdict and self._remember(key, verdict)

    def grade(
        self, answer: str | None, gold: str, kind: str, choices: Sequence[str] | None = None
    ) -> Verdict:
        """Return the verdict on one answer; may block for about `limit_s` seconds."""
        verdict = self.quick(answer, gold, kind, choices)
        if verdict is not None or answer is None:
            return verdict or "wrong"
        equal = self._pool.equal(answer, gold)
        verdict = "timeout" if equal is None else "right" if equal else "wrong"
        return self._remember(_key(answer, gold, kind, choices), verdict)

    async def verdict(
        self, answer: str | None, gold: str, kind: str, choices: Sequence[str] | None = None
    ) -> Verdict:
        """Return what `grade` returns, beside the event loop where it blocks."""
        quick = self.quick(answer, gold, kind, choices)
        if quick is not None:
            return quick
        return await asyncio.to_thread(self.grade, answer, gold, kind, choices)

    def _remember(self, key: _Key, verdict: Verdict) -> Verdict:
        with self._lock:
            if len(self._memo) >= MEMO_SIZE:
                del self._memo[next(iter(self._memo))]  # the oldest
            self._memo[key] = verdict
        return verdict


def _key(answer: str, gold: str, kind: str, choices: Sequence[str] | None) -> _Key:
    return kind, gold, answer, None if choices is None else tuple(choices)
