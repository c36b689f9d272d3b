"""Samples that are waited for come when they end; a broken stream loses and doubles none."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_server import Fault, OpenAIServer, Reply

import malt_data
from malt_data.engines import Completion, Request
from malt_data.engines.openai import OpenAIEngine
from malt_data.engines.streaming import Stream

MESSAGES = ({"role": "user", "content": "2 + 2?"},)
Samples = list[tuple[int, Completion]]


def ask(server: OpenAIServer, requests: int = 1, prompt: Any = MESSAGES) -> list[Samples]:
    async def run() -> list[Samples]:
        engine = OpenAIEngine("test-model", base_url=server.base_url, backoff_s=0.01)
        request = Request(prompt, (11, 12, 13), 0.3, 50, eager=True)
        try:
            return [[each async for each in engine.complete(request)] for _ in range(requests)]
        finally:
            assert engine.gate.running == 0
            await engine.close()

    return asyncio.run(run())


def counted(samples: Samples) -> dict[int, Completion]:
    found = {sample: each for sample, each in samples if each.counted}
    assert len(found) == sum(each.counted for _, each in samples), "a sample was counted twice"
    return found


@pytest.mark.parametrize("prompt", [MESSAGES, "2 + 2?"])
def test_each_sample_comes_when_it_ends_and_again_with_its_tokens(prompt: Any) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 10}
    with OpenAIServer(
        answer=lambda m, s, i: "½🙂" * (i + 1),
        usage=usage,
        choice_delay=lambda i: (0.4, 0.0, 0.2)[i],
    ) as server:
        (samples,) = ask(server, prompt=prompt)
    assert [sample for sample, each in samples if not each.counted] == [1, 2, 0]
    final = counted(samples)
    assert [final[i].text for i in range(3)] == ["½🙂" * (i + 1) for i in range(3)]
    assert sum(final[i].completion_tokens or 0 for i in range(3)) == 10
    assert [final[i].prompt_tokens for i in range(3)] == [9, 9, 9]
    early = {sample: each for sample, each in samples if not each.counted}
    assert [early[i].text for i in range(3)] == [final[i].text for i in range(3)]
    assert (final[1].latency or 9) < 0.2 <= (final[2].latency or 0) < 0.4 <= (final[0].latency or 0)
    assert server.connections == 1


def test_thinking_is_kept_apart_and_usage_may_be_missing() -> None:
    reply = Reply("4", "stop", {"reasoning_content": "Two and two."})
    with OpenAIServer(answer=lambda *_: reply, usage=False) as server:
        (samples,) = ask(server)
    assert counted(samples) == {
        i: Completion("4", "stop", None, None, 11, thinking="Two and two.") for i in range(3)
    }


def test_what_was_said_stays_said_when_a_sibling_shows_how_the_template_thinks() -> None:
    """If prompts open a thought, a text that was cut off is one; but its children have read it."""
    replies = (Reply("Two and two", "length"), Reply("Hm.</think>4"), Reply("Hm.</think>5"))
    with OpenAIServer(
        answer=lambda m, s, i: replies[i], choice_delay=lambda i: (0.0, 0.2, 0.4)[i]
    ) as server:
        (samples,) = ask(server)
    early = {sample: each for sample, each in samples if not each.counted}
    final = counted(samples)
    assert early[0].text == final[0].text == "Two and two"
    assert final[1].text == "4"


@pytest.mark.parametrize("fault", ["cut", "error", "garbage"])
def test_a_broken_stream_loses_only_what_had_not_ended(fault: str) -> None:
    with OpenAIServer(stream_fault=fault, choice_delay=lambda i: 0.1 * (i != 1)) as server:
        (samples,) = ask(server)
    texts = {i: each.text for i, each in counted(samples).items()}
    assert texts == {0: "seed 11 sample 0", 1: "seed 11 sample 1", 2: "seed 13 sample 0"}
    assert [(body.get("n"), body["seed"]) for body in server.bodies] == [
        (3, 11), (None, 11), (None, 13)
    ]  # fmt: skip


def test_after_three_broken_streams_it_does_without() -> None:
    with OpenAIServer(stream_fault="cut") as server:
        assert all(len(counted(samples)) == 3 for samples in ask(server, requests=5))
    assert sum("stream" in body for body in server.bodies) == 3


@pytest.mark.parametrize("field", ["stream", "stream_options"])
def test_a_server_that_refuses_streams_is_asked_once(field: str) -> None:
    def refuse(body: dict[str, Any]) -> Fault | None:
        return Fault(400, "unknown field") if field in body else None

    with OpenAIServer(refuse=refuse) as server:
        assert all(len(counted(samples)) == 3 for samples in ask(server, requests=2))
    assert ["stream" in body for body in server.bodies] == [True, False, False]


def test_a_refused_prompt_does_not_end_streaming() -> None:
    with OpenAIServer(faults=[Fault(400, "too long")], fail_first=3) as server:
        with pytest.raises(malt_data.errors.EngineError, match="too long"):
            ask(server)
        ask(server)
    assert "stream" in server.bodies[-1]


@pytest.mark.parametrize("stream_fault", [None, "ignore"])
@pytest.mark.parametrize("ignore_n", [False, True])
def test_servers_that_ignore_stream_or_n(stream_fault: str | None, ignore_n: bool) -> None:
    with OpenAIServer(stream_fault=stream_fault, ignore_n=ignore_n) as server:
        for samples in ask(server, requests=2):
            texts = {i: each.text for i, each in counted(samples).items()}
            one = {i: f"seed {11 + i} sample 0" for i in range(3)}
            assert texts == (one if ignore_n else {i: f"seed 11 sample {i}" for i in range(3)})
    assert len(server.bodies) == (6 if ignore_n else 2)


@pytest.mark.parametrize("fault", ["500", "429", "close", "garbage", "empty"])
def test_a_stream_that_does_not_begin_is_retried(fault: str) -> None:
    with OpenAIServer(fail_first=2, faults=[fault]) as server:
        (samples,) = ask(server)
    assert len(counted(samples)) == 3


def test_bytes_may_be_cut_anywhere_and_a_text_that_ended_does_not_grow() -> None:
    first = '{"choices":[{"index":0,"delta":{"content":"½"},"finish_reason":"stop"}]}'
    late = '{"choices":[{"index":0,"delta":{"content":"late"}},{"index":5,"delta":{}}]}'
    data = f"event: x\r\ndata:{first}\r\n\r\n: ping\n\ndata: {late}\n\ndata: [DONE]\n\n".encode()
    for size in (1, 2, 7, len(data)):
        stream, ended = Stream(2), list[int]()
        for start in range(0, len(data), size):
            ended += stream.feed(data[start : start + size])
        assert (ended, stream.done, stream.ended) == ([0], True, [0])
        assert stream.reply([0])["choices"][0]["message"] == {"content": "½"}


def test_children_start_before_the_slowest_sibling_ends(tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question": "What is 1 plus 2?", "answer": "#### 3"}\n')
    with OpenAIServer(
        answer=lambda *_: "Final Answer: 3", choice_delay=lambda i: 0.5 * (i == 0)
    ) as server:
        spec = malt_data.BuildSpec(
            n=2, questions=str(questions), engine="openai", base_url=server.base_url
        )
        report = malt_data.build_forest(spec, tmp_path / "f")
    assert (report.grown, report.completions) == (1, 14)
    root, *children = [r.at for r in server.requests if r.path.endswith("completions")]
    assert children[0] - root < 0.4, "the first child waited for the slowest sibling"
    assert malt_data.verify(malt_data.open_forest(str(tmp_path / "f"))) == []


@pytest.mark.parametrize("reason", ["abort", 1])
def test_a_sample_that_the_server_aborted_is_requested_again(reason: Any) -> None:
    answers: Iterator[str | Reply] = iter([Reply("half an", reason), *["4"] * 9])
    with OpenAIServer(answer=lambda *_: next(answers)) as server:
        (samples,) = ask(server)
    assert {sample: each.text for sample, each in samples if each.counted} == dict.fromkeys(
        range(3), "4"
    )
