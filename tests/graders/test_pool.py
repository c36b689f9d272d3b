"""Worker processes: killed at the limit, replaced when they die, gone with their parent."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from malt_data.errors import GraderError
from malt_data.graders import Grader, extract_answer
from malt_data.graders.numeric import is_number
from malt_data.graders.pool import Pool as Pool

pytestmark = pytest.mark.slow

ALGEBRA = "malt_data.graders.math:equal"
HANG = "(a+b+c+d+e+f+g)^{90}"  # passes the cost guard; expanding it takes minutes
GOLD = "x^2+1"
ROOMS = ["kitchen", "garden shed", "attic", "shed"]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(limit_s=2.0) as grader:
        yield grader


def _algebra(limit_s: float, workers: int = 1) -> Pool:
    return Pool(ALGEBRA, limit_s, workers, warm_up=("x+x", "2x"))


def _equal(pool: Pool, answer: str, gold: str) -> bool | None:
    reward = pool.call(answer, gold).reward
    return None if reward is None else bool(reward)


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def test_verdicts_of_each_kind(grader: Grader) -> None:
    assert grader.grade(None, "4", "numeric") == "wrong"
    assert grader.grade("4 eggs", "4", "numeric") == "right"
    assert grader.grade("(D) shed", "D", "choice", ROOMS) == "right"
    assert grader.grade("(D) attic", "D", "choice", ROOMS) == "wrong"
    assert grader.grade("x^2-1", "(x-1)(x+1)", "math") == "right"
    assert grader.grade("x^2-2", "(x-1)(x+1)", "math") == "wrong"


def test_quick_leaves_algebra_to_grade_and_then_uses_its_cache(grader: Grader) -> None:
    assert grader.quick("x^2-9", "(x-3)(x+3)", "math") is None
    assert grader.grade("x^2-9", "(x-3)(x+3)", "math") == "right"
    assert grader.quick("x^2-9", "(x-3)(x+3)", "math") == "right"


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("malt_data.graders.grader.CACHE_SIZE", 3)
    with Grader() as grader:
        for number in range(9):
            grader.grade(f"x={number}", "x=1", "math")
        assert len(grader._cache) == 3


def test_no_worker_starts_before_algebra_is_needed() -> None:
    with Grader() as grader:
        grader.grade("4", "4", "numeric")
        grader.grade("x+1", "x + 1", "math")
        assert grader.pids() == []


def test_a_hanging_comparison_is_a_timeout_and_the_worker_is_replaced() -> None:
    with Grader(limit_s=3.0) as grader:
        assert grader.grade("x^2-1", "(x-1)(x+1)", "math") == "right"  # starts the worker
        (before,) = grader.pids()
        start = time.monotonic()
        assert grader.grade(HANG, GOLD, "math") == "timeout"
        assert time.monotonic() - start < 15.0
        assert not psutil.pid_exists(before)
        start = time.monotonic()
        assert grader.grade(HANG, GOLD, "math") == "timeout"  # cached
        assert time.monotonic() - start < 0.5
        assert grader.grade("x^2-4", "(x-2)(x+2)", "math") == "right"


def test_a_worker_that_dies_is_replaced_and_its_comparison_is_tried_again() -> None:
    pool = _algebra(2.0)
    try:
        assert _equal(pool, "x+x", "2x") is True
        (pid,) = pool.pids()
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(_equal, pool, HANG, GOLD)
            time.sleep(0.3)
            os.kill(pid, signal.SIGKILL)  # like the kernel when memory runs out
            assert waiting.result(timeout=20) is None
        assert _equal(pool, "x+x", "2x") is True
        assert pid not in pool.pids()
    finally:
        pool.close()


def test_an_idle_worker_that_died_is_replaced() -> None:
    pool = _algebra(5.0)
    try:
        assert _equal(pool, "x+x", "2x") is True
        (pid,) = pool.pids()
        os.kill(pid, signal.SIGKILL)
        psutil.Process(pid).wait(5) if psutil.pid_exists(pid) else None
        assert _equal(pool, "x+x+x", "3x") is True
    finally:
        pool.close()


def test_close_frees_a_waiting_thread_and_leaves_no_process() -> None:
    grader = Grader(limit_s=30.0)
    assert grader.grade("x+x", "2x", "math") == "right"
    pids = grader.pids()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(grader.grade, HANG, GOLD, "math")
        time.sleep(0.3)
        grader.close()
        assert waiting.result(timeout=5) == "timeout"
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(RuntimeError, match="closed"):
        grader.grade("y+y", "2y", "math")


def test_close_frees_a_waiting_thread_on_a_busy_machine() -> None:
    """In any order of events, a pipe is not closed while a thread reads from it."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        for _ in range(15):
            pool = _algebra(30.0)
            with ThreadPoolExecutor(1) as threads:
                waiting = threads.submit(_equal, pool, "x+x", "2x")
                while not pool.pids():
                    time.sleep(0.01)
                time.sleep(0.05)
                pool.close()
                assert waiting.result(timeout=20) is None
    finally:
        for process in spinners:
            process.kill()
            process.wait()


def test_threads_and_an_event_loop_share_one_grader(grader: Grader) -> None:
    def ask(number: int) -> str:
        return grader.grade(f"x^2+{number % 7}x", f"x(x+{number % 5})", "math")

    async def main() -> list[str]:
        return await asyncio.gather(*(asyncio.to_thread(ask, number) for number in range(70)))

    expected = ["right" if number % 7 == number % 5 else "wrong" for number in range(70)]
    assert asyncio.run(main()) == expected
    assert len(grader.pids()) == 1


def test_several_workers_run_at_once() -> None:
    pool = _algebra(1.0, workers=2)
    try:
        with ThreadPoolExecutor(2) as threads:
            for verdict in threads.map(lambda n: _equal(pool, HANG + f"+{n}", GOLD), (1, 2)):
                assert verdict is None
        with ThreadPoolExecutor(2) as threads:
            assert all(threads.map(lambda n: _equal(pool, f"{n}x+x", f"{n + 1}x"), range(2, 8)))
    finally:
        pool.close()


@pytest.mark.parametrize("busy", [False, True])
def test_no_worker_survives_a_killed_parent(busy: bool) -> None:
    script = (
        "import threading, time\n"
        "from malt_data.graders.pool import Pool\n"
        f"pool = Pool('{ALGEBRA}', 60)\n"
        "print(pool.call('x+x', '2x').reward == 1, *pool.pids(), flush=True)\n"
        f"if BUSY: threading.Thread(target=pool.call, args=('{HANG}', '{GOLD}')).start()\n"
        "time.sleep(0.2)\n"
        "print('busy', flush=True)\n"
        "time.sleep(60)\n"
    ).replace("BUSY", str(busy))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        equal, pid = parent.stdout.readline().split()
        assert equal == "True"
        parent.stdout.readline()
        assert psutil.pid_exists(int(pid))
        parent.kill()
    assert _wait_until(lambda: not _running(int(pid)), 8)


def _running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_ctrl_c_does_not_reach_the_worker(grader: Grader) -> None:
    assert grader.grade("z+z", "2z", "math") == "right"
    (pid,) = grader.pids()
    assert os.getpgid(pid) != os.getpgid(0)
    os.kill(pid, signal.SIGINT)
    assert grader.grade("z+z+z", "3z", "math") == "right"
    assert grader.pids() == [pid]


PATHOLOGICAL = {
    "tower": "9^9^9^9",
    "braced tower": "9^{9^{9^9}}",
    "factorial": "1000000!",
    "boxed factorial": r"\boxed{(10^8)!}",
    "double factorial": "((1000!)!)!",
    "power": "3^{100000000}",
    "negative power": "3^{-100000000}",
    "exponent": "1e999999999",
    "binomial": r"\binom{100000000}{50000000}",
    "expansion": HANG,
    "parentheses": "(" * 500 + "1" + ")" * 500,
    "braces": "{" * 500 + "1" + "}" * 500,
    "fractions": r"\frac{1}{" * 100 + "2" + "}" * 100,
    "roots": r"\sqrt{" * 60 + "2" + "}" * 60,
    "minus": "-" * 400 + "1",
    "many numbers": " ".join(str(number) for number in range(100_000)),
    "long list": ",".join(str(number) for number in range(50_000)),
    "list of powers": ",".join(f"2^{{{900 + number}}}" for number in range(40)),
    "long number": "9" * 100_000,
    "digits": "7" * 499,
    "megabyte": "x" * 1_000_000,
    "boxes": r"\boxed{" * 140_000,
    "dollars": "$" * 1_000_000,
    "sum": r"\sum_{k=1}^{99999999} \frac{1}{k^2}",
    "integral": r"\int_0^1 x^x e^{x^2} \sin(x^3) dx",
    "equation": "x^5 + 3x^4 - y^3 + xy = 7z^2 - 1",
    "null bytes": "\x00\ud800" * 50,
    "regex": "a" * 200 + "!" * 200,
}


@pytest.mark.parametrize("name", PATHOLOGICAL)
def test_no_input_blocks_the_caller_or_raises(grader: Grader, name: str) -> None:
    hostile = PATHOLOGICAL[name]
    grader.grade("x+x", "2x", "math")  # start the worker before timing
    start = time.monotonic()
    for text in (f"Final Answer: {hostile}", rf"\boxed{{{hostile}}}", hostile):
        for gold in ("12", "x^2+1"):
            kind: str = "numeric" if is_number(gold) else "math"
            answer = extract_answer(text, kind)
            assert grader.grade(answer, gold, kind) in ("wrong", "timeout")
    assert time.monotonic() - start < 10
    grader.grade("12", hostile, "math")
    grader.grade(hostile, "B", "choice", ROOMS)
    is_number(hostile)


def test_algebra_that_cannot_run_is_an_error_and_no_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("malt_data.graders.grader._ALGEBRA", "no_such_module:equal")
    with Grader() as grader:
        with pytest.raises(GraderError, match=r"Computer algebra cannot run: it .*no_such"):
            grader.grade("x^2-1", "(x-1)(x+1)", "math")
        with pytest.raises(GraderError, match="Computer algebra cannot run"):
            asyncio.run(grader.verdict("x^2-1", "(x-1)(x+1)", "math"))
