"""Grade completions: by their question's kind, or by a function of the user's own.

    with Grader() as grader:
        grader.grade("18 eggs", "18", "numeric")          # 'right'

    with Grader("rewards.py:grade") as grader:
        await grader.judge([("a completion", question)])  # [Graded("…", "wrong", 0.5)]

A user's function is `def grade(completion: str, question: dict) -> bool | float | None`, or an
`async def` if it waits for something, such as a judge on a server. The question is a row of
`questions` with `meta` as a dict; the result is the reward, 0 to 1, or None if it cannot decide. It
runs in the workers of `pool.py`, so a call that hangs or crashes costs only its own verdict.
"""

import asyncio
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from malt_data.errors import GraderError
from malt_data.graders.extract import extract_answer
from malt_data.graders.kinds import Verdict, kind_of
from malt_data.graders.names import AUTO, graded_as, is_own, label_of, require_grader
from malt_data.graders.pool import Pool, Reply

CACHE_SIZE = 100_000
TIMEOUT_S = 60.0
"""Seconds for one call of a user's function."""
_BATCH = 1_000  # completions handed to workers at once
_OWN_MEMORY = 4 * 1024**3
_WORKERS = min(8, os.cpu_count() or 1)
_FAILURES = 20  # at the start, without a single reward: then the function is at fault
_ALGEBRA = "malt_data.graders.math:equal"

Completion = tuple[str, Mapping[str, Any]]
"""The text, and the row of `questions` that it answers."""
_Key = tuple[str, str, str, tuple[str, ...] | None]


class Graded(NamedTuple):
    """The grade of one completion. reward: 0 to 1; 0 if it is undecided (`timeout`)."""

    answer: str | None
    verdict: Verdict
    reward: float

    def columns(self, *, leaf: bool) -> dict[str, Any]:
        """Return the columns that store it."""
        return grade_columns(self.answer, self.verdict, leaf=leaf, reward=self.reward)


def grade_columns(
    answer: str | None, verdict: str, *, leaf: bool, reward: float | None = None
) -> dict[str, Any]:
    """Return the columns that store the grade of one answer; reward: by default 1 if right.

    A timeout is not a wrong answer: `correct` is null and `verdict` is "timeout". The reward of
    such a leaf is 0, since its answer was not shown to equal the gold.
    """
    right = verdict == "right"
    unanswered = answer is None and verdict == "wrong"
    return {
        "answer": answer,
        "correct": None if verdict == "timeout" else right,
        "verdict": "unanswered" if unanswered else verdict,
        "reward": (float(right) if reward is None else reward) if leaf else None,
    }


class Grader:
    """Grades completions and answers; safe to share between threads. Close it when done.

    name: auto, a kind for all questions, or a function, which is imported and run in workers:
    pass one that the user has named, never one that a file names. limit_s is the wall-clock limit
    of one comparison by computer algebra, `workers` the number that may run at once; timeout_s the
    limit of one call of a function. Workers are started on first use. note: called with messages
    for the user about a function that fails.
    """

    def __init__(
        self,
        name: str = AUTO,
        *,
        limit_s: float = 5.0,
        workers: int = 1,
        timeout_s: float = TIMEOUT_S,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        require_grader(name)
        self.name = label_of(name)
        self.own = is_own(name)
        self._target = name
        self._limit_s, self._workers, self._timeout_s = limit_s, workers, timeout_s
        self._note = note
        self._pools: dict[str, Pool] = {}
        self._cache: dict[_Key, Verdict] = {}
        self._lock = threading.Lock()
        self._decided = 0
        self._failures: Counter[str] = Counter()

    def __enter__(self) -> "Grader":
        """Start a user's function, so that one that cannot be loaded is found before sampling."""
        if self.own:
            self._load()
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
        for pool in list(self._pools.values()):
            pool.close()
        count = self._failures.total()
        if count > 1:
            self._note(
                f"{self.name}: {count} completions could not be graded; their verdict is timeout."
            )

    def pids(self) -> list[int]:
        """Return the process ids of the running workers."""
        return [pid for pool in list(self._pools.values()) for pid in pool.pids()]

    # --- completions ----------------------------------------------------------------------------

    async def judge(self, completions: Iterable[Completion]) -> list[Graded]:
        """Grade completions, several at once where a function grades, without blocking the loop.

        Raises GraderError if the function cannot be used.
        """
        graded = []
        for answer, kind, question, reply in [self._begin(*each) for each in completions]:
            if reply is not None:
                graded.append(self._graded(answer, await asyncio.wrap_future(reply), question))
                continue
            gold, choices = question["gold"], question["choices"]
            graded.append(_exact(answer, await self.verdict(answer, gold, kind, choices)))
        return graded

    def judge_sync(self, completions: Iterable[Completion]) -> list[Graded]:
        """Do the same outside of an event loop."""
        graded, left = [], iter(completions)
        while begun := [self._begin(*each) for each in islice(left, _BATCH)]:
            for answer, kind, question, reply in begun:
                if reply is not None:
                    graded.append(self._graded(answer, reply.result(), question))
                    continue
                gold, choices = question["gold"], question["choices"]
                graded.append(_exact(answer, self.grade(answer, gold, kind, choices)))
        return graded

    def _begin(
        self, text: str, question: Mapping[str, Any]
    ) -> tuple[str | None, str, Mapping[str, Any], "Future[Reply] | None"]:
        """Return the answer, the kind it is read as, the question, a function's reply if any."""
        kind = graded_as(question["kind"], self.name)
        answer = extract_answer(text, kind, question["choices"])
        target = self._target if self.own else kind_of(kind).judge
        given = text if self.own else answer
        if target is None or given is None:
            return answer, kind, question, None
        return answer, kind, question, self._pool(target).submit(given, _readable(question))

    def _graded(self, answer: str | None, reply: Reply, question: Mapping[str, Any]) -> Graded:
        if reply.unusable:
            raise self._unusable(reply)
        if reply.error is not None:
            self._failed(reply.error, question)
        else:
            self._decided += 1
        if reply.reward is None:
            return Graded(answer, "timeout", 0.0)
        return Graded(answer, "right" if reply.reward == 1 else "wrong", reply.reward)

    def _failed(self, error: str, question: Mapping[str, Any]) -> None:
        """Count a call without a result; raise GraderError if all calls so far had none."""
        with self._lock:
            self._failures[error] += 1
            count = self._failures.total()
        name = self.name if self.own else "reasoning-gym's score_answer"
        if count == 1:
            self._note(
                f"{name} {error}, on question {question['question_id']}. A completion that could "
                "not be graded has the verdict timeout."
            )
        if self.own and not self._decided and count >= _FAILURES:
            common = self._failures.most_common(1)[0][0]
            raise GraderError(
                f"{name} has failed on all of the first {count} completions: it {common}. Correct "
                "it and run the same command again; what is finished is kept."
            )

    # --- functions ------------------------------------------------------------------------------

    def _load(self) -> None:
        where = self._target.rpartition(":")[0]
        if where.endswith(".py") and not Path(where).is_file():
            raise GraderError(f"The grader {self._target}: there is no file {where}.")
        reply = self._pool(self._target).load()
        if reply is not None:
            self.close()
            raise self._unusable(reply)

    def _unusable(self, reply: Reply) -> GraderError:
        if self.own:
            return GraderError(
                f"The grader {self._target} cannot be loaded: it {reply.error}. Name a function "
                "def grade(completion, question) in a file or module that can be imported."
            )
        return GraderError(
            f"Questions of reasoning-gym are graded by its score_answer, which {reply.error}. "
            "Run: pip install 'malt-data[reasoning-gym]'"
        )

    def _pool(self, target: str) -> Pool:
        with self._lock:
            if target not in self._pools:
                self._pools[target] = self._open(target)
            return self._pools[target]

    def _open(self, target: str) -> Pool:
        if target == _ALGEBRA:
            return Pool(target, self._limit_s, self._workers, warm_up=("x+x", "2x"))
        return Pool(target, self._timeout_s, _WORKERS, memory=_OWN_MEMORY)

    # --- answers against golds ------------------------------------------------------------------

    def quick(
        self, answer: str | None, gold: str, kind: str, choices: Sequence[str] | None = None
    ) -> Verdict | None:
        """Return the verdict if it takes microseconds, None if `grade` must use a worker."""
        if answer is None:
            return "wrong"
        rules = kind_of(kind)
        if not rules.slow:
            return rules.quick(answer, gold, choices or ())
        key = _key(answer, gold, kind, choices)
        with self._lock:
            cached = self._cache.get(key)
        if cached is not None:
            return cached
        verdict = rules.quick(answer, gold, choices or ())
        return verdict and self._store(key, verdict)

    def grade(
        self, answer: str | None, gold: str, kind: str, choices: Sequence[str] | None = None
    ) -> Verdict:
        """Return the verdict on one answer; may block for about `limit_s` seconds.

        Where a function grades, it only compares texts, which is what votes are counted by.
        """
        verdict = self.quick(answer, gold, kind, choices)
        if verdict is not None or answer is None:
            return verdict or "wrong"
        reply = self._pool(_ALGEBRA).call(answer, gold)
        return self._store(_key(answer, gold, kind, choices), _by_algebra(reply))

    async def verdict(
        self, answer: str | None, gold: str, kind: str, choices: Sequence[str] | None = None
    ) -> Verdict:
        """Return the same as `grade`, without blocking the loop."""
        verdict = self.quick(answer, gold, kind, choices)
        if verdict is not None or answer is None:
            return verdict or "wrong"
        reply = await asyncio.wrap_future(self._pool(_ALGEBRA).submit(answer, gold))
        return self._store(_key(answer, gold, kind, choices), _by_algebra(reply))

    def _store(self, key: _Key, verdict: Verdict) -> Verdict:
        with self._lock:
            if len(self._cache) >= CACHE_SIZE:
                del self._cache[next(iter(self._cache))]  # the oldest
            self._cache[key] = verdict
        return verdict


def _by_algebra(reply: Reply) -> Verdict:
    """Return what computer algebra says; raise GraderError if it cannot run at all."""
    if reply.unusable:
        raise GraderError(f"Computer algebra cannot run: it {reply.error}.")
    return "timeout" if reply.reward is None else "right" if reply.reward else "wrong"


def _exact(answer: str | None, verdict: Verdict) -> Graded:
    return Graded(answer, verdict, float(verdict == "right"))


def _readable(question: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of `questions` with its `meta` as a dict; raise GraderError if it is none."""
    try:
        meta = json.loads(question["meta"])
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        raise GraderError(f"The meta of question {question['question_id']} is not a JSON object.")
    return {**question, "meta": meta}


def _key(answer: str, gold: str, kind: str, choices: Sequence[str] | None) -> _Key:
    return kind, gold, answer, None if choices is None else tuple(choices)
