"""A grader of the user's own: what it returns, and that a call costs only its own verdict."""

import asyncio
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from malt_data.errors import GraderError, SpecError
from malt_data.graders import Grader, extract_answer, is_own, label_of, require_grader

QUESTION: dict[str, Any] = {
    "question_id": "0123456789abcdef", "source": "mine", "split": "train", "question": "Why?",
    "choices": None, "gold": "", "kind": "code", "cluster": None, "meta": '{"tests": [1, 2]}',
}  # fmt: skip


@contextmanager
def _grader(folder: Path, code: str, timeout_s: float = 2.0, **options: Any) -> Iterator[Grader]:
    path = folder / "rewards.py"
    path.write_text(code)
    with Grader(f"{path}:grade", timeout_s=timeout_s, **options) as grader:
        yield grader


def _rewards(grader: Grader, texts: list[str]) -> list[tuple[str, float]]:
    return [(g.verdict, g.reward) for g in grader.judge_sync((text, QUESTION) for text in texts)]


def _dead(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _wait_until_dead(*pids: int) -> None:
    deadline = time.monotonic() + 10
    while not all(map(_dead, pids)):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.05)


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["rewards.py:grade", "/a b/rewards.py:grade", "../x.py:f", "mine:grade", "a.b_c:grade"]
)
def test_a_file_or_module_with_a_function_is_a_grader_of_ones_own(name: str) -> None:
    require_grader(name)
    assert is_own(name)


@pytest.mark.parametrize(
    "name", ["numerc", "rewards.py", "rewards.py:", ":grade", "a:b:c", "x.py:a.b", "a-b:c", ".py:f",
             "a..b:c", "rewards.py:1st"],
)  # fmt: skip
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match=r"Choose one of: auto, .*, FILE\.py:function"):
        require_grader(name)


def test_a_label_names_no_folder() -> None:
    assert label_of("/home/ann/rewards.py:grade") == "rewards.py:grade"
    assert label_of("mine.rewards:grade") == "mine.rewards:grade"
    assert label_of("auto") == "auto"


# --- results -----------------------------------------------------------------------------------


def test_a_reward_is_a_number_from_0_to_1_a_bool_or_none(tmp_path: Path) -> None:
    code = "def grade(completion, question):\n    return eval(completion)"
    with _grader(tmp_path, code) as grader:
        texts = ["True", "1", "1.0", "0.25", "0", "False", "None", "__import__('numpy').float32(1)"]
        assert _rewards(grader, texts) == [
            ("right", 1.0), ("right", 1.0), ("right", 1.0), ("wrong", 0.25), ("wrong", 0.0),
            ("wrong", 0.0), ("timeout", 0.0), ("right", 1.0),
        ]  # fmt: skip


def test_the_columns_of_each_verdict(tmp_path: Path) -> None:
    code = "def grade(completion, question):\n    return question['meta']['tests'][1] / 4"
    question = QUESTION | {"kind": "numeric"}
    with _grader(tmp_path, code) as grader:
        answered, silent = grader.judge_sync([("Final Answer: 7", question), ("hm", question)])
    assert answered.columns(leaf=True) == {
        "answer": "7", "correct": False, "verdict": "wrong", "reward": 0.5,
    }  # fmt: skip
    assert silent.columns(leaf=False) == {
        "answer": None, "correct": False, "verdict": "unanswered", "reward": None,
    }  # fmt: skip


def test_the_answer_to_a_kind_of_ones_own_is_all_text_after_a_marker_else_all_text() -> None:
    assert extract_answer("def f():\n    return 1\n", "code") == "def f():\n    return 1"
    assert extract_answer("So.\nFinal Answer:\na b\nc d\n", "code") == "a b\nc d"
    assert extract_answer("  ", "code") is None
    assert len(extract_answer("x" * 100_000, "code") or "") == 10_000
    with pytest.raises(SpecError, match="Unknown kind"):
        extract_answer("x", "Code!")


INVALID = ["2.0", "-0.1", "'yes'", "float('nan')", "[1]", "{}", "float('inf')", "lambda: 1"]


def test_an_invalid_result_or_an_exception_is_undecided_and_noted_once(tmp_path: Path) -> None:
    notes: list[str] = []
    code = "def grade(completion, question):\n    return eval(completion)"
    with _grader(tmp_path, code, note=notes.append) as grader:
        failing = [*INVALID, "1 / 0", "exit()", "{}['x\ud800']".encode("utf-8", "replace").decode()]
        for text in ["1", *failing]:
            (verdict,) = _rewards(grader, [text])
            assert verdict == (("right", 1.0) if text == "1" else ("timeout", 0.0)), text
    assert notes == [
        "rewards.py:grade returned 2.0, not a number from 0 to 1, a bool or None, on question "
        "0123456789abcdef. A completion that could not be graded has the verdict timeout.",
        "rewards.py:grade: 11 completions could not be graded; their verdict is timeout.",
    ]


def test_a_function_that_always_fails_stops_after_20(tmp_path: Path) -> None:
    code = "def grade(completion, question):\n    return question['meta']['test']"
    with (
        _grader(tmp_path, code) as grader,
        pytest.raises(GraderError, match=r"all of the first 20 completions: it raised KeyError"),
    ):
        grader.judge_sync([("x", QUESTION)] * 30)


def test_a_function_that_once_worked_does_not_stop(tmp_path: Path) -> None:
    code = "def grade(completion, question):\n    return float(completion)"
    with _grader(tmp_path, code) as grader:
        assert _rewards(grader, ["1"] + ["x"] * 40) == [("right", 1.0)] + [("timeout", 0.0)] * 40


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def judge(): ...", r"raised AttributeError: module 'malt_grader_rewards' has no"),
        ("import nowhere", "raised ModuleNotFoundError: No module named 'nowhere'"),
        ("def grade(:", "raised SyntaxError"),
        ("grade = 3", "raised TypeError: grade is not a function"),
        ("exit(3)", "raised SystemExit: 3"),
        ("import os; os._exit(3)", "ended its process"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_an_error(
    tmp_path: Path, code: str, message: str
) -> None:
    with pytest.raises(GraderError, match=message), _grader(tmp_path, code):
        pass


def test_a_missing_file_is_an_error() -> None:
    with pytest.raises(GraderError, match=r"there is no file gone\.py"), Grader("gone.py:grade"):
        pass


def test_a_module_of_the_working_folder_is_found_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("import json\ndef grade(c, q):\n    return json.loads(c)")
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    with Grader("mine:grade") as grader:
        assert _rewards(grader, ["0.5"]) == [("wrong", 0.5)]


# --- attacks -----------------------------------------------------------------------------------

ATTACKS = {
    "hang": "while True: pass",
    "hang in C": "import re; re.match('(a*)*b', 'a' * 40)",
    "sleep without signals": "for n in (1, 2, 3, 14, 15): signal.signal(n, signal.SIG_IGN)\n"
    "        time.sleep(99)",
    "exit": "os._exit(0)",
    "crash": "os.kill(os.getpid(), signal.SIGSEGV)",
    "close everything": "os.closerange(0, 256)",
    "garbage in every pipe": "for n in range(3, 64):\n"
    "            try: os.write(n, b'{\"id\": 0}\\n[1]\\n')\n"
    "            except OSError: pass",
    "exit and leave a child": "\n"
    "        if os.fork(): os._exit(1)\n"
    "        time.sleep(99)",
    "memory": "x = [bytearray(2**28) for _ in range(64)]",
    "recursion": "f = lambda: f(); f()",
    "kill its group": "os.killpg(0, signal.SIGKILL)",
}  # fmt: skip
HARMLESS = {
    "forged reply": "os.write(1, b'{\"id\": 0, \"reward\": 0.5}\\n')",
    "flood": "print('x' * 10**7); os.write(2, b'x' * 10**7)",
    "close stdin": "sys.stdin.close()",
    "close stdout": "sys.stdout.close(); sys.stderr.close()",
    "replace json": "import json; json.loads = json.dumps = json.JSONEncoder = print",
    "replace signals": "signal.signal(signal.SIGALRM, signal.SIG_IGN)",
    "child that returns too": "os.fork()",
    "sleeping child": "if not os.fork(): time.sleep(99)",
    "thread": "import threading\n"
    "        threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
    "change folder": "os.chdir('/')",
}  # fmt: skip
CODE = """
import os, signal, sys, time
def grade(completion, question):
    if completion == "attack":
        ATTACK
    return 1
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_costs_its_own_verdict_only(tmp_path: Path, name: str) -> None:
    with _grader(tmp_path, CODE.replace("ATTACK", ATTACKS[name])) as grader:
        texts = ["fine"] * 5 + ["attack"] + ["fine"] * 5
        expected = [("right", 1.0)] * 5 + [("timeout", 0.0)] + [("right", 1.0)] * 5
        assert _rewards(grader, texts) == expected
        pids = grader.pids()
        assert pids
    _wait_until_dead(*pids)


@pytest.mark.slow
@pytest.mark.parametrize("name", HARMLESS)
def test_what_a_function_does_beside_its_result_changes_nothing(tmp_path: Path, name: str) -> None:
    with _grader(tmp_path, CODE.replace("ATTACK", HARMLESS[name])) as grader:
        assert _rewards(grader, ["fine", "attack", "fine", "attack"] * 3) == [("right", 1.0)] * 12


FAMILY = """
import subprocess, sys, time
def grade(completion, question):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
    open(completion, "w").write(str(child.pid))
    if question["gold"] == "hang":
        time.sleep(99)
    return 1
"""


@pytest.mark.slow
@pytest.mark.parametrize("gold", ["", "hang"])
def test_children_end_with_their_worker(tmp_path: Path, gold: str) -> None:
    with _grader(tmp_path, FAMILY, timeout_s=2) as grader:
        note = tmp_path / "pid"
        (graded,) = grader.judge_sync([(str(note), QUESTION | {"gold": gold})])
        assert graded.verdict == ("timeout" if gold else "right")
    _wait_until_dead(int(note.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["idle", "hang"])
def test_no_process_survives_a_killed_parent(tmp_path: Path, how: str) -> None:
    (tmp_path / "rewards.py").write_text(FAMILY)
    script = (
        "from malt_data.graders import Grader\n"
        "import sys, json\n"
        "with Grader('rewards.py:grade') as grader:\n"
        f"    grader.judge_sync([('one', json.loads({json.dumps(QUESTION)!r}))])\n"
        "    print(*grader.pids(), flush=True)\n"
        f"    grader.judge_sync([('two', json.loads({json.dumps(QUESTION | {'gold': how})!r}))])\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        pids = list(map(int, parent.stdout.readline().split()))
        while not (tmp_path / "two").exists() or not (tmp_path / "two").read_text():
            time.sleep(0.05)
        parent.kill()
    children = [int((tmp_path / name).read_text()) for name in ("one", "two")]
    _wait_until_dead(*pids, *children)


# --- async judges ------------------------------------------------------------------------------


class _Judge(http.server.BaseHTTPRequestHandler):
    """Answers 1 to any request after 0.2 s, and counts how many it has at once."""

    now = most = 0
    lock = threading.Lock()

    def do_GET(self) -> None:
        with _Judge.lock:
            _Judge.now += 1
            _Judge.most = max(_Judge.most, _Judge.now)
        time.sleep(0.2)
        with _Judge.lock:
            _Judge.now -= 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"0.75")

    def log_message(self, *_: Any) -> None:
        pass


ASKS = """
import asyncio
async def grade(completion, question):
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    writer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
    reply = await reader.read()
    writer.close()
    return float(reply.split(b"\\r\\n\\r\\n")[1])
"""


@pytest.mark.slow
def test_an_async_judge_gets_many_completions_at_once(tmp_path: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Judge)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with _grader(tmp_path, ASKS.replace("PORT", str(server.server_port))) as grader:

            async def judge() -> list[float]:
                ticks = asyncio.create_task(_longest_pause())
                graded = await grader.judge((f"{i}", QUESTION) for i in range(64))
                ticks.cancel()
                assert pauses[0] < 0.5
                return [each.reward for each in graded]

            pauses = [0.0]

            async def _longest_pause() -> None:
                while True:
                    start = time.monotonic()
                    await asyncio.sleep(0.01)
                    pauses[0] = max(pauses[0], time.monotonic() - start)

            start = time.monotonic()
            assert asyncio.run(judge()) == [0.75] * 64
            assert time.monotonic() - start < 5
            assert 8 <= _Judge.most <= 16 * (os.cpu_count() or 1)
    finally:
        server.shutdown()
        server.server_close()


ASYNC = """
import asyncio, os, time
async def grade(completion, question):
    await asyncio.sleep(0.1)
    if completion == "exit":
        os._exit(1)
    if completion == "block":
        time.sleep(99)
    if completion == "wait":
        await asyncio.sleep(99)
    if completion == "raise":
        raise ValueError("no")
    return 1
"""


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["exit", "block", "wait", "raise"])
def test_an_async_call_costs_its_own_verdict_only(tmp_path: Path, attack: str) -> None:
    with _grader(tmp_path, ASYNC, timeout_s=1) as grader:
        texts = ["fine"] * 20 + [attack] + ["fine"] * 20
        expected = [("right", 1.0)] * 20 + [("timeout", 0.0)] + [("right", 1.0)] * 20
        assert _rewards(grader, texts) == expected


@pytest.mark.slow
def test_a_cancelled_caller_leaves_a_usable_grader(tmp_path: Path) -> None:
    code = "import time\ndef grade(c, q):\n    time.sleep(float(c))\n    return 1"
    with _grader(tmp_path, code) as grader:

        async def main() -> str:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(grader.judge([("1", QUESTION)]), 0.1)
            return (await grader.judge([("0", QUESTION)]))[0].verdict

        assert asyncio.run(main()) == "right"


# --- reasoning-gym -----------------------------------------------------------------------------


def test_reasoning_gym_grades_with_its_own_scores() -> None:
    pytest.importorskip("reasoning_gym")
    question = QUESTION | {
        "source": "reasoning-gym:chain_sum", "kind": "reasoning_gym", "gold": "7",
        "meta": '{"metadata": {}}',
    }  # fmt: skip
    with Grader() as grader:
        texts = ["Final Answer: 7", "Final Answer: 8", "so it goes", "Final Answer: the 7"]
        graded = grader.judge_sync((text, question) for text in texts)
    assert [(each.verdict, each.answer) for each in graded] == [
        ("right", "7"), ("wrong", "8"), ("wrong", None), ("wrong", "the 7"),
    ]  # fmt: skip
