"""The HTTP engine with the real client over real sockets, against a server that misbehaves."""

import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable, Sequence
from email.utils import formatdate
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_server import Fault, OpenAIServer, Reply

from malt_data.engines import Completion, Request
from malt_data.engines import openai as module
from malt_data.engines.openai import OpenAIEngine
from malt_data.engines.refusals import InvalidReply
from malt_data.engines.replies import _share, base_models, completions
from malt_data.errors import EngineDown, EngineError

KEY = "sk-secret-0123456789"
MESSAGES = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"})
Samples = list[tuple[int, Completion]]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def request(*seeds: int, **changes: Any) -> Request:
    settings: dict[str, Any] = {"temperature": 0.3, "max_tokens": 50, **changes}
    return Request(MESSAGES, seeds, **settings)


async def ask(
    url: str | None, requests: Sequence[Request], model: str | None = "test-model", **settings: Any
) -> list[Samples]:
    """Open an engine, complete the requests one by one, close it."""
    engine = await OpenAIEngine.open(model, base_url=url, **{"backoff_s": 0.01, **settings})
    try:
        return [[sample async for sample in engine.complete(each)] for each in requests]
    finally:
        await engine.close()


def one(server: OpenAIServer, *seeds: int, **settings: Any) -> Samples:
    return asyncio.run(ask(server.base_url, [request(*(seeds or (7,)))], **settings))[0]


def texts(samples: Samples) -> dict[int, str]:
    return {sample: completion.text for sample, completion in samples}


# What is requested, and what is recorded


def test_all_samples_come_from_one_request_and_record_its_seed() -> None:
    with OpenAIServer() as server:
        samples = one(server, 11, 12, 13)
    assert server.bodies == [
        {
            "model": "test-model",
            "messages": list(MESSAGES),
            "n": 3,
            "seed": 11,
            "temperature": 0.3,
            "max_tokens": 50,
        }
    ]
    assert texts(samples) == {i: f"seed 11 sample {i}" for i in range(3)}
    assert [completion.seed for _, completion in samples] == [11, 11, 11]


def test_an_adapter_is_requested_as_the_model() -> None:
    with OpenAIServer(models=()) as server:
        asyncio.run(ask(server.base_url, [request(1, adapter="verifier-lora")]))
    assert server.bodies[0]["model"] == "verifier-lora"


@pytest.mark.parametrize("text", ["  two\r\n spaces \t", "", "\\boxed{4} ½ 🙂\u2028\x00"])
def test_the_text_is_kept_exactly(text: str) -> None:
    with OpenAIServer(answer=lambda *_: text) as server:
        assert texts(one(server)) == {0: text}


def test_no_content_is_an_empty_answer_and_reasoning_is_not_part_of_it() -> None:
    no_content = Reply(None, None, {"reasoning_content": "Let me think."})
    with OpenAIServer(answer=lambda *_: no_content, usage=False) as server:
        samples = one(server)
    expected = Completion("", "unknown", None, None, 7, thinking="Let me think.")
    assert samples == [(0, expected)]
    assert len(server.bodies) == 1


def test_half_an_emoji_becomes_a_replacement_character() -> None:
    with OpenAIServer(answer=lambda *_: "\ud83d!") as server:
        assert texts(one(server)) == {0: "\ufffd!"}


def test_the_finish_reason_is_recorded() -> None:
    with OpenAIServer(answer=lambda *_: Reply("truncated", "length")) as server:
        assert one(server)[0][1].finish_reason == "length"


def test_tokens_of_one_choice_are_as_reported_and_of_many_sum_to_the_total() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 10}
    with OpenAIServer(answer=lambda m, s, i: "ab" * (i + 1), usage=usage) as server:
        (_, alone), *_ = one(server)
        many = one(server, 1, 2, 3)
    assert (alone.prompt_tokens, alone.completion_tokens) == (9, 10)
    assert [c.prompt_tokens for _, c in many] == [9, 9, 9]
    assert [c.completion_tokens for _, c in many] == [2, 3, 5]


@given(st.integers(0, 10**6), st.lists(st.text(max_size=50), min_size=1, max_size=12))
def test_shares_sum_to_the_total_and_follow_the_lengths(total: int, words: list[str]) -> None:
    shares = _share(total, words)
    assert sum(shares) == total
    length = sum(map(len, words))
    if length:
        for share, word in zip(shares, words, strict=True):
            assert abs(share - total * len(word) / length) < 1


def test_latency_excludes_the_wait_for_a_slot() -> None:
    async def run(url: str) -> list[Completion]:
        engine = OpenAIEngine("test-model", base_url=url, concurrency=1)

        async def one(seed: int) -> list[Completion]:
            return [completion async for _, completion in engine.complete(request(seed, seed + 1))]

        batches = await asyncio.gather(*(one(seed) for seed in range(10)))
        await engine.close()
        return [completion for batch in batches for completion in batch]

    with OpenAIServer(delay=0.1) as server:
        latencies = [completion.latency or 0.0 for completion in asyncio.run(run(server.base_url))]
    assert len(latencies) == 20
    assert min(latencies) >= 0.1
    assert sorted(latencies)[14] < 0.3  # the last one waited 0.9 s for its slot


def test_latency_is_that_of_the_successful_attempt() -> None:
    fault = Fault(429, headers={"Retry-After": "1"})
    with OpenAIServer(fail_first=1, faults=[fault], delay=0.1) as server:
        ((_, completion),) = one(server)
    assert completion.latency is not None
    assert 0.1 <= completion.latency < 1.0 <= retry_delay(server)


def test_latency_excludes_a_rejected_token_limit() -> None:
    def delay(body: dict[str, Any]) -> float:
        return 0.5 if "max_tokens" in body else 0.0

    with OpenAIServer(limit_field="max_completion_tokens", delay=delay) as server:
        ((_, completion),) = one(server)
    assert completion.latency is not None
    assert completion.latency < 0.5


def test_extra_choices_are_dropped() -> None:
    with OpenAIServer(extra_choices=2) as server:
        assert sorted(texts(one(server, 1, 2))) == [0, 1]


# Servers with missing features


def test_a_server_that_ignores_n_gets_single_requests_from_then_on() -> None:
    with OpenAIServer(ignore_n=True) as server:
        url = server.base_url
        first, second = asyncio.run(ask(url, [request(1, 2, 3), request(4, 5)]))
    assert texts(first) == {0: "seed 1 sample 0", 1: "seed 2 sample 0", 2: "seed 3 sample 0"}
    assert {c.seed: c.text for _, c in second} == {4: "seed 4 sample 0", 5: "seed 5 sample 0"}
    assert [body.get("n", 1) for body in server.bodies] == [3, 1, 1, 1, 1]


def test_a_server_that_rejects_n_gets_single_requests_from_then_on() -> None:
    with OpenAIServer(refuse_n=True) as server:
        url = server.base_url
        first, second = asyncio.run(ask(url, [request(1, 2), request(4, 5)]))
    assert sorted(c.seed or 0 for _, c in first + second) == [1, 2, 4, 5]
    assert [body.get("n", 1) for body in server.bodies] == [2, 1, 1, 1, 1]


def test_a_rejected_prompt_is_not_mistaken_for_a_rejected_n() -> None:
    async def run(server: OpenAIServer) -> Samples:
        engine = OpenAIEngine("test-model", base_url=server.base_url)
        with pytest.raises(EngineError, match="too long"):
            [_ async for _ in engine.complete(request(1, 2))]
        samples = [sample async for sample in engine.complete(request(1, 2))]
        await engine.close()
        return samples

    with OpenAIServer(faults=[Fault(400, "prompt is too long")], fail_first=2) as server:
        assert len(asyncio.run(run(server))) == 2
    assert server.bodies[-1]["n"] == 2


def test_single_requests_run_concurrently_and_yield_in_order_of_completion() -> None:
    def delay(body: dict[str, Any]) -> float:
        return {1: 0.0, 2: 0.5, 3: 0.1, 4: 0.3}[body["seed"]]

    with OpenAIServer(ignore_n=True, delay=delay) as server:
        samples = one(server, 1, 2, 3, 4)
    assert [sample for sample, _ in samples] == [0, 2, 3, 1]
    assert server.in_flight_max == 3


def test_max_completion_tokens_is_used_if_the_server_requires_it() -> None:
    with OpenAIServer(limit_field="max_completion_tokens") as server:
        asyncio.run(ask(server.base_url, [request(1, 2), request(3)]))
    sent = [[name for name in body if name.startswith("max_")] for body in server.bodies]
    assert sent == [["max_tokens"], ["max_completion_tokens"], ["max_completion_tokens"]]


def test_no_more_requests_are_in_flight_than_allowed() -> None:
    async def run(url: str) -> int:
        engine = OpenAIEngine("test-model", base_url=url, concurrency=4)

        async def count(seed: int) -> int:
            return len([_ async for _ in engine.complete(request(seed, seed + 1))])

        counts = await asyncio.gather(*(count(seed) for seed in range(20)))
        await engine.close()
        return sum(counts)

    with OpenAIServer(delay=0.02) as server:
        assert asyncio.run(run(server.base_url)) == 40
    assert server.in_flight_max == 4
    assert server.connections <= 4, "connections were not kept alive"


def test_a_lower_priority_number_goes_first() -> None:
    async def run(url: str) -> None:
        engine = OpenAIEngine("test-model", base_url=url, concurrency=1)

        async def one(seed: int, priority: int) -> None:
            assert [_ async for _ in engine.complete(request(seed, priority=priority))]

        await asyncio.gather(one(1, 0), one(2, -1), one(3, -3), one(4, -2))
        await engine.close()

    with OpenAIServer(delay=0.02) as server:
        asyncio.run(run(server.base_url))
    assert [body["seed"] for body in server.bodies] == [1, 3, 4, 2]


# The model


def test_the_only_model_is_used_and_adapters_do_not_count() -> None:
    with OpenAIServer(models=["tiny-llm"]) as server:
        assert texts(one(server, model=None)) == {0: "seed 7 sample 0"}
    assert server.bodies[0]["model"] == "tiny-llm"
    listed = {"data": [{"id": "base", "parent": None}, {"id": "lora", "parent": "base"}]}
    assert base_models(listed) == ["base"]


@pytest.mark.parametrize(("models", "listed"), [(["one", "two"], "one, two"), ([], "none")])
def test_several_models_or_none_are_listed(models: list[str], listed: str) -> None:
    with (
        OpenAIServer(models=models) as server,
        pytest.raises(EngineDown, match=rf"serves {len(models)} models \({listed}\).*--model"),
    ):
        one(server, model=None)


# Transient failures


FAULTS = ["500", "503", "429", "408", "409", "close", "cut", "garbage", "empty", "no-message"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_transient_fault_is_retried(fault: str) -> None:
    with OpenAIServer(fail_first=2, faults=[fault]) as server:
        assert texts(one(server)) == {0: "seed 7 sample 0"}
    assert len(server.bodies) == 3


def test_a_request_that_times_out_is_retried() -> None:
    with OpenAIServer(fail_first=1, faults=["hang"]) as server:
        assert texts(one(server, timeout_s=0.3)) == {0: "seed 7 sample 0"}


def test_many_requests_through_all_faults_return_each_sample_once() -> None:
    async def run(url: str) -> list[Samples]:
        engine = OpenAIEngine("test-model", base_url=url, backoff_s=0.01)

        async def one(seed: int) -> Samples:
            return [sample async for sample in engine.complete(request(seed, seed, seed))]

        samples = await asyncio.gather(*(one(seed) for seed in range(100)))
        await engine.close()
        return samples

    with OpenAIServer(fail_every=3, faults=FAULTS) as server:
        for seed, samples in enumerate(asyncio.run(run(server.base_url))):
            assert texts(samples) == {i: f"seed {seed} sample {i}" for i in range(3)}


def retry_delay(server: OpenAIServer) -> float:
    first, second = server.requests
    return second.at - first.at


def test_retry_after_in_seconds_is_honoured() -> None:
    with OpenAIServer(fail_first=1, faults=[Fault(429, headers={"Retry-After": "1"})]) as server:
        one(server)
    assert 1.0 <= retry_delay(server) < 5.0


def test_retry_after_as_a_date_is_honoured() -> None:
    date = formatdate(time.time() + 2.5, usegmt=True)  # whole seconds: 1.5 to 2.5 from now
    with OpenAIServer(fail_first=1, faults=[Fault(503, headers={"Retry-After": date})]) as server:
        one(server)
    assert 1.0 <= retry_delay(server) < 3.3


def test_retry_after_above_the_limit_of_the_client_is_honoured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def record(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    with OpenAIServer(fail_first=1, faults=[Fault(429, headers={"Retry-After": "300"})]) as server:
        monkeypatch.setattr(asyncio, "sleep", record)
        one(server)
        monkeypatch.undo()
    assert [seconds for seconds in pauses if seconds >= 300]


def test_a_retry_after_of_hours_fails_immediately() -> None:
    fault = Fault(429, "daily limit", {"Retry-After": "86400"})
    with (
        OpenAIServer(fail_first=9, faults=[fault]) as server,
        pytest.raises(EngineError, match=r"429.*daily limit.*wait 86400 s"),
    ):
        one(server)
    assert len(server.bodies) == 1


# Permanent failures


def failure(run: Callable[[], object]) -> EngineError:
    with pytest.raises(EngineError) as caught:
        run()
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("500", "returned 500 after 3 attempts: injected fault"),
        ("429", "returned 429 after 3 attempts"),
        ("close", "closed the connection after 3 attempts"),
        ("cut", "closed the connection after 3 attempts"),
        ("garbage", "sent an invalid response after 3 attempts ('<html>no JSON"),
        ("hang", "did not respond within 0.2 s, after 3 attempts"),
    ],
)
def test_a_permanent_fault_fails_only_the_request(fault: str, message: str) -> None:
    with OpenAIServer(fail_first=99, faults=[fault]) as server:
        error = failure(lambda: one(server, max_retries=2, timeout_s=0.2))
    assert message in str(error)
    assert not isinstance(error, EngineDown)
    assert len(server.bodies) == 3


@pytest.mark.parametrize("status", [400, 422])
def test_a_rejected_request_gives_the_servers_reason_shortened(status: int) -> None:
    reason = "This prompt\nhas 9000 tokens. " + "x" * 1000
    with OpenAIServer(fail_first=9, faults=[Fault(status, reason)]) as server:
        error = failure(lambda: one(server))
    assert f"({status}): This prompt has 9000 tokens. xxx" in str(error)
    assert len(str(error)) < 400
    assert not isinstance(error, EngineDown)
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_rejected_key_stops_the_build_and_is_not_shown(status: int) -> None:
    fault = Fault(status, f"Incorrect API key provided: {KEY}")
    with OpenAIServer(fail_first=9, faults=[fault]) as server:
        error = failure(lambda: one(server, api_key=KEY))
    assert isinstance(error, EngineDown)
    assert "OPENAI_API_KEY" in str(error)
    assert len(server.bodies) == 1


def test_the_key_comes_from_the_argument_or_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with OpenAIServer(key=KEY) as server:
        assert isinstance(failure(lambda: one(server)), EngineDown)
        assert one(server, api_key=KEY + "\n")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        assert one(server)


def test_an_unknown_model_stops_the_build() -> None:
    with OpenAIServer() as server:
        error = failure(lambda: one(server, model="typo"))
    assert isinstance(error, EngineDown)
    assert "model 'typo'" in str(error)


def test_a_url_without_v1_stops_the_build_with_a_hint() -> None:
    with OpenAIServer() as server:
        url = server.base_url.removesuffix("/v1")
        for model in ("test-model", None):
            error = failure(partial(asyncio.run, ask(url, [request(1)], model)))
            assert isinstance(error, EngineDown)
            assert "--base-url ends in /v1" in str(error)


def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


def test_a_server_that_is_down_stops_the_build_soon() -> None:
    url = f"http://127.0.0.1:{closed_port()}/v1"
    started = time.monotonic()
    error = failure(lambda: asyncio.run(ask(url, [request(1)], backoff_s=0.5)))
    assert time.monotonic() - started < 10
    assert isinstance(error, EngineDown)
    assert f"{url} could not be reached after 4 attempts" in str(error)


def test_an_address_that_never_accepts_stops_the_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        clients = [socket.socket() for _ in range(3)]  # fill the accept queue
        for each in clients:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        error = failure(lambda: asyncio.run(ask(f"http://127.0.0.1:{port}/v1", [request(1)])))
        for each in clients:
            each.close()
    assert isinstance(error, EngineDown)
    assert "could not be reached" in str(error)


def test_a_server_that_restarts_is_waited_for() -> None:
    async def run() -> Samples:
        with OpenAIServer() as before:
            url, port = before.base_url, before.port
            engine = OpenAIEngine("test-model", base_url=url, backoff_s=0.1)
            assert [_ async for _ in engine.complete(request(1))]

        async def restart() -> OpenAIServer:
            await asyncio.sleep(1.2)  # longer than UNREACHED_RETRIES take
            return await asyncio.to_thread(OpenAIServer(port=port).__enter__)

        restarting = asyncio.create_task(restart())
        samples = [sample async for sample in engine.complete(request(2))]
        await engine.close()
        (await restarting).__exit__()
        return samples

    assert texts(asyncio.run(run())) == {0: "seed 2 sample 0"}


@pytest.mark.parametrize(
    "url",
    ["localhost:8000/v1", "http://", "http://[::1/v1", "http://u:hunter2@h:no/v1", "http://a b/v1"],
)
def test_an_invalid_url_is_reported_immediately(url: str) -> None:
    error = failure(lambda: asyncio.run(ask(url, [request(1)])))
    assert isinstance(error, EngineDown)
    assert "--base-url" in str(error)
    assert "hunter2" not in str(error)


def test_a_password_in_the_url_is_not_shown() -> None:
    url = f"http://user:hunter2@127.0.0.1:{closed_port()}/v1?token=hunter2"
    error = failure(lambda: asyncio.run(ask(url, [request(1)])))
    assert "127.0.0.1" in str(error)
    assert "hunter2" not in str(error)


def test_a_missing_key_and_server_is_reported_immediately() -> None:
    error = failure(lambda: asyncio.run(ask(None, [request(1)])))
    assert isinstance(error, EngineDown)
    assert "OPENAI_API_KEY" in str(error)
    assert "--base-url" in str(error)


@pytest.mark.parametrize("key", ["sk-two\nlines", "sk-ünicode"])
def test_a_key_that_cannot_be_sent_is_not_shown(key: str) -> None:
    error = failure(lambda: asyncio.run(ask("http://127.0.0.1:1/v1", [request(1)], api_key=key)))
    assert isinstance(error, EngineDown)
    assert "sk-" not in str(error)


def test_an_exceeded_quota_stops_the_build() -> None:
    quota = Fault(429, "You exceeded your quota", {"x-should-retry": "false"}, "insufficient_quota")
    with OpenAIServer(fail_first=9, faults=[quota]) as server:
        error = failure(lambda: one(server))
    assert isinstance(error, EngineDown)
    assert "You exceeded your quota" in str(error)
    assert len(server.bodies) == 1


def test_without_the_client_the_error_names_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "malt_data.engines.openai")
    with pytest.raises(EngineDown, match=r"pip install 'malt-data\[openai\]'"):
        __import__("malt_data.engines.openai")


# Cancellation


@pytest.mark.parametrize("ignore_n", [False, True])
def test_a_cancelled_request_leaves_nothing_behind(ignore_n: bool) -> None:
    def delay(body: dict[str, Any]) -> float:
        return 0.0 if body["seed"] == 1 and ignore_n else 30.0

    async def run(url: str) -> None:
        errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, error: errors.append(error))
        engine = OpenAIEngine("test-model", base_url=url)

        async def collect() -> Samples:
            return [sample async for sample in engine.complete(request(1, 2, 3))]

        task = asyncio.create_task(collect())
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.gate.running == 0
        await engine.close()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert errors == []

    with OpenAIServer(ignore_n=ignore_n, delay=delay) as server:
        asyncio.run(run(server.base_url), debug=True)
    assert len(server.bodies) == (3 if ignore_n else 1)


def test_a_failed_sample_cancels_its_siblings() -> None:
    async def run(url: str) -> float:
        engine = OpenAIEngine("test-model", base_url=url, max_retries=0)
        started = time.monotonic()
        with pytest.raises(EngineError, match="500"):
            [_ async for _ in engine.complete(request(1, 2, 3, 4))]
        assert engine.gate.running == 0
        await engine.close()
        return time.monotonic() - started

    def delay(body: dict[str, Any]) -> float:
        return {1: 0.0, 2: 0.1}.get(body["seed"], 20.0)

    with OpenAIServer(ignore_n=True, delay=delay, fail_every=2) as server:
        assert asyncio.run(run(server.base_url)) < 5


@pytest.mark.parametrize(
    "reply", [None, [], "text", {}, {"choices": None}, {"choices": [{"message": {"content": [1]}}]}]
)
def test_json_that_is_not_a_completion_is_an_invalid_reply(reply: object) -> None:
    with pytest.raises(InvalidReply):
        module._parse(json.dumps(reply), lambda parsed: completions(parsed, (1,)))


# --- plain text ---------------------------------------------------------------------------------

PLAIN_PROMPT = "Question: 2 + 2?\nAnswer:"


def plain(*seeds: int, **changes: Any) -> Request:
    settings: dict[str, Any] = {"temperature": 0.3, "max_tokens": 50, **changes}
    return Request(PLAIN_PROMPT, seeds, **settings)


def ask_plain(server: OpenAIServer, *seeds: int, **changes: Any) -> Samples:
    return asyncio.run(ask(server.base_url, [plain(*seeds, **changes)]))[0]


def test_plain_text_goes_to_completions_as_it_is() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 10}
    with OpenAIServer(answer=lambda m, s, i: m[0]["content"] * (i + 1), usage=usage) as server:
        samples = ask_plain(server, 11, 12, adapter=None, stop=("\n\n",))
    assert [received.path for received in server.requests] == ["/v1/completions"]
    assert server.bodies == [
        {
            "model": "test-model",
            "prompt": PLAIN_PROMPT,
            "n": 2,
            "seed": 11,
            "temperature": 0.3,
            "max_tokens": 50,
            "stop": ["\n\n"],
        }
    ]
    assert [completion for _, completion in samples] == [
        Completion(PLAIN_PROMPT, "stop", 9, 3, 11),
        Completion(PLAIN_PROMPT * 2, "stop", 9, 7, 11),
    ]


@pytest.mark.parametrize("kind", ["ignore_n", "refuse_n"])
def test_plain_text_without_n_is_requested_sample_by_sample(kind: str) -> None:
    with OpenAIServer(**{kind: True}) as server:  # type: ignore[arg-type]
        samples = ask_plain(server, 11, 12, 13)
    assert texts(samples) == {i: f"seed {11 + i} sample 0" for i in range(3)}
    assert {received.path for received in server.requests} == {"/v1/completions"}


@pytest.mark.parametrize("keep_stop", [False, True])
@pytest.mark.parametrize("build", [plain, request])
def test_a_text_ends_before_its_first_stop_string(
    keep_stop: bool, build: Callable[..., Request]
) -> None:
    answer = Reply(" 4\nQuestion: 3 + 3?\n###", "length")
    with OpenAIServer(answer=lambda *_: answer, keep_stop=keep_stop) as server:
        requests = [build(1, stop=stop) for stop in ((), ("###", "\n"), ("none",))]
        found = [samples[0][1] for samples in asyncio.run(ask(server.base_url, requests))]
    assert [each.text for each in found] == [answer.text, " 4", answer.text]
    assert [each.finish_reason for each in found] == ["length", "stop", "length"]
    assert ["stop" in body for body in server.bodies] == [False, True, True]


def test_plain_text_is_retried_and_the_limit_renamed_as_for_chats() -> None:
    faults = ("garbage", "empty", "no-message", "500", "cut")
    with OpenAIServer(fail_first=5, faults=faults, limit_field="max_completion_tokens") as server:
        assert texts(ask_plain(server, 7)) == {0: "seed 7 sample 0"}
    assert "max_completion_tokens" in server.bodies[-1]


def test_a_server_without_completions_or_a_chat_template_says_what_to_do() -> None:
    with (
        OpenAIServer(has_completions=False) as server,
        pytest.raises(EngineDown, match="or no /completions, which plain text needs"),
    ):
        ask_plain(server, 1)
    with (
        OpenAIServer(has_chat=False) as server,
        pytest.raises(
            EngineDown, match=r"without a chat template .*\[chat_template\] plain = true"
        ),
    ):
        one(server)
    assert len(server.bodies) == 1
