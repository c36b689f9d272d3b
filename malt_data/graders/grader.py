"""Grade answers as right, wrong or timed out; slow comparisons are cached.

with Grader() as grader:
    grader.grade("18 eggs", "18", "numeric")      # 'right'
"""

import asyncio
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from malt_data.errors import SpecError
from malt_data.graders.kinds import KINDS, Verdict, require_kind
from malt_data.graders.pool import Pool

AUTO = "auto"
"""The grader that uses each question's own kind."""
CACHE_SIZE = 100_000

_Key = tuple[str, str, str, tuple[str, ...] | None]


def graders() -> list[str]:
    """Return the values of `--grader`: auto, or one kind for all questions."""
    return [AUTO, *KINDS]


def require_grader(name: str) -> None:
    """Raise SpecError for an unknown grader."""
    if name not in graders():
        raise SpecError(f"Unknown grader {name!r}. Choose one of: {', '.join(graders())}.")


def graded_as(kind: str, grader: str) -> str:
    """Return the kind that `grader` uses for answers to a question of `kind`.

    Raises SpecError for an unknown grader or kind.
    """
    require_grader(grader)
    return require_kind(kind).name if grader == AUTO else grader


def grade_columns(answer: str | None, verdict: str, *, leaf: bool) -> dict[str, Any]:
    """Return the columns that store the grade of one answer.

    A timeout is not a wrong answer: `correct` is null and `verdict` is "timeout". The reward of
    such a leaf is 0, since its answer was not shown to equal the gold.
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

    `limit_s` is the wall-clock limit of one comparison by computer algebra, `workers` the number
    that may run at once. Worker processes are started on first use.
    """

    def __init__(self, limit_s: float = 5.0, workers: int = 1) -> None:
        self._pool = Pool(limit_s, workers)
        self._cache: dict[_Key, Verdict] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the worker processes; answers that need one can no longer be graded."""
        self._pool.close()

    def quick(
        self, answer: str | None, gold: str, kind: str, choices: Sequence[str] | None = None
    ) -> Verdict | None:
        """Return the verdict if it takes microseconds, None if `grade` must use a worker."""
        if answer is None:
            return "wrong"
        grade_quickly = require_kind(kind).quick
        if not KINDS[kind].slow:
            return grade_quickly(answer, gold, choices or ())
        key = _key(answer, gold, kind, choices)
        with self._lock:
            cached = self._cache.get(key)
        if cached is not None:
            return cached
        verdict = grade_quickly(answer, gold, choices or ())
        return verdict and self._store(key, verdict)

    def grade(
        self, answer: str | None, gold: str, kind: str, choices: Sequence[str] | None = None
    ) -> Verdict:
        """Return the verdict on one answer; may block for about `limit_s` seconds."""
        verdict = self.quick(answer, gold, kind, choices)
        if verdict is not None or answer is None:
            return verdict or "wrong"
        equal = self._pool.equal(answer, gold)
        verdict = "timeout" if equal is None else "right" if equal else "wrong"
        return self._store(_key(answer, gold, kind, choices), verdict)

    async def verdict(
        self, answer: str | None, gold: str, kind: str, choices: Sequence[str] | None = None
    ) -> Verdict:
        """Return the same as `grade`, running it in a thread if it would block."""
        quick = self.quick(answer, gold, kind, choices)
        if quick is not None:
            return quick
        return await asyncio.to_thread(self.grade, answer, gold, kind, choices)

    def _store(self, key: _Key, verdict: Verdict) -> Verdict:
        with self._lock:
            if len(self._cache) >= CACHE_SIZE:
                del self._cache[next(iter(self._cache))]  # the oldest
            self._cache[key] = verdict
        return verdict


def _key(answer: str, gold: str, kind: str, choices: Sequence[str] | None) -> _Key:
    return kind, gold, answer, None if choices is None else tuple(choices)
