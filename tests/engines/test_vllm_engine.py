"""The vllm engine with the embedded model (takes a minute on a CPU)."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lora import write_adapter
from with_vllm import pytestmark as pytestmark  # first, as it skips where there is no vLLM

from malt_data.engines import Completion, Request
from malt_data.engines.embedded import EMBEDDED
from malt_data.engines.vllm import VLLMEngine, _modules, _rank
from malt_data.errors import EngineDown, EngineError

QUESTION = "What is 2 + 5? Think step by step, then end with 'Final Answer: <number>'."


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("lora") / "adapter"
    write_adapter(folder)
    return str(folder)


@pytest.fixture(scope="module")
def engine(runner: asyncio.Runner, adapter: str) -> Iterator[VLLMEngine]:
    options = {"concurrency": 16, "adapters": (adapter,), "max_model_len": 1024}
    engine = runner.run(VLLMEngine.open(EMBEDDED, **options))
    yield engine
    runner.run(engine.close())


def ask(text: str, *seeds: int, temperature: float = 0.7, max_tokens: int = 20) -> Request:
    return Request(({"role": "user", "content": text},), seeds, temperature, max_tokens)


async def gather(engine: VLLMEngine, request: Request) -> list[Completion]:
    completions = {sample: completion async for sample, completion in engine.complete(request)}
    return [completions[sample] for sample in range(len(request.seeds))]


async def gather_all(engine: VLLMEngine, *requests: Request) -> list[list[Completion]]:
    return await asyncio.gather(*(gather(engine, request) for request in requests))


def test_a_seed_gives_the_same_text_alone_and_in_any_batch(
    runner: asyncio.Runner, engine: VLLMEngine
) -> None:
    request = ask(QUESTION, 11, 12)
    alone = runner.run(gather(engine, request))
    others = [ask("Name a colour.", *range(9), temperature=1.0), ask("Hello!", *range(9))]
    assert runner.run(gather_all(engine, others[0], request, others[1]))[1] == alone
    assert alone[0].text != alone[1].text
    assert [completion.seed for completion in alone] == [11, 12]


def test_tokens_are_counted_and_the_finish_reason_is_recorded(
    runner: asyncio.Runner, engine: VLLMEngine
) -> None:
    requests = [ask("Count from 1 to 50.", 1, max_tokens=9), ask("Say hi.", 1, max_tokens=200)]
    (truncated,), (finished,) = runner.run(gather_all(engine, *requests))
    assert (truncated.finish_reason, truncated.completion_tokens) == ("length", 9)
    assert finished.finish_reason == "stop"
    assert "<|im_end|>" not in finished.text
    assert truncated.latency
    assert finished.latency
    assert truncated.prompt_tokens == len(engine._encode(requests[0])) > 20


def test_plain_text_is_tokenized_as_it_is_and_ends_before_its_stop_string(
    runner: asyncio.Runner, engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "The first twenty numbers, one after the other: 1, 2, 3, 4,"
    whole = Request(text, (1, 2), 0, 30)
    (full, _), (cut, _) = runner.run(gather_all(engine, whole, replace(whole, stop=("!!", "8,"))))
    assert full.prompt_tokens == len(engine._tokenizer(text)["input_ids"])
    assert (full.finish_reason, cut.finish_reason) == ("length", "stop")
    assert cut.text == full.text[: full.text.index("8,")]
    assert (cut.completion_tokens or 0) < 30
    monkeypatch.setattr(engine._tokenizer, "chat_template", None)
    assert runner.run(gather(engine, whole))[0] == full
    with pytest.raises(EngineDown, match=r"no chat template.*plain = true"):
        runner.run(gather(engine, ask(QUESTION, 1)))


def test_an_adapter_can_be_used_alongside_the_base_model(
    runner: asyncio.Runner, engine: VLLMEngine, adapter: str
) -> None:
    base = ask(QUESTION, 1, temperature=0)
    adapted = replace(base, adapter=adapter)
    alone = [runner.run(gather(engine, request)) for request in (base, adapted)]
    assert alone[0][0].text != alone[1][0].text
    mixed = runner.run(gather_all(engine, base, adapted, base, adapted))
    assert mixed == alone * 2
    with pytest.raises(EngineDown, match="not opened with"):
        runner.run(gather(engine, replace(base, adapter="another")))


def test_a_prompt_beyond_the_context_fails_alone_with_the_sizes(
    runner: asyncio.Runner, engine: VLLMEngine
) -> None:
    with pytest.raises(EngineError, match="1024") as failed:
        runner.run(gather(engine, ask("word " * 2000, 1)))
    assert not isinstance(failed.value, EngineDown)
    assert len(runner.run(gather(engine, ask("Hi.", 1)))) == 1


def test_a_cancelled_request_frees_its_slots(runner: asyncio.Runner, engine: VLLMEngine) -> None:
    async def cancel() -> None:
        endless = ask("Write a very long novel.", *range(20), temperature=1.5, max_tokens=900)
        task = asyncio.create_task(gather(engine, endless))
        await asyncio.sleep(1)
        assert engine.gate.running == 16
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.gate.running == 0
        await asyncio.wait_for(gather(engine, ask("Hi.", 1, max_tokens=2)), 60)

    runner.run(cancel())


def test_a_model_that_cannot_be_loaded_is_a_clear_error(
    runner: asyncio.Runner, tmp_path: Path
) -> None:
    with pytest.raises(EngineDown, match="could not start with"):
        runner.run(VLLMEngine.open(str(tmp_path)))


def test_the_rank_is_the_smallest_that_fits_every_adapter(tmp_path: Path) -> None:
    for name, rank in [("a", 4), ("b", 20), ("c", 1)]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"r": rank}))
    assert _rank((str(tmp_path / "a"),)) == 8
    assert _rank((str(tmp_path / "a"), str(tmp_path / "b"))) == 32
    assert _rank((str(tmp_path / "c"),)) == 1
    assert _rank((str(tmp_path / "c"), "me/on-the-hub")) == 64


@pytest.mark.parametrize(
    ("targets", "modules"),
    [
        ([["q_proj", "v_proj"], ["q_proj", "o_proj"]], ["o_proj", "q_proj", "v_proj"]),
        ([["q_proj"], "all-linear"], None),
        ([["q_proj"], None], None),  # on the Hub
        ([["q_proj"], []], None),
        ([["q_proj", "layers.0.self_attn.v_proj"]], None),
    ],
)
def test_lora_is_applied_to_the_modules_of_all_adapters(
    targets: list[list[str] | str | None], modules: list[str] | None, tmp_path: Path
) -> None:
    adapters = [str(tmp_path / str(number)) for number in range(len(targets))]
    for adapter, names in zip(adapters, targets, strict=True):
        if names is not None:
            Path(adapter).mkdir()
            config = {"r": 8, "target_modules": names}
            (Path(adapter) / "adapter_config.json").write_text(json.dumps(config))
    assert _modules(tuple(adapters)) == modules


def test_prompts_that_fill_more_than_one_step_keep_their_seeds(
    runner: asyncio.Runner, engine: VLLMEngine
) -> None:
    long = [ask(f"{number} {'and so on ' * 250}", 1, max_tokens=1) for number in range(24)]
    assert len(runner.run(gather_all(engine, *long))) == 24


def test_sampling_parameters_are_passed_on_and_unknown_ones_refused_in_its_words(
    runner: asyncio.Runner, engine: VLLMEngine
) -> None:
    request = ask("Name any number.", 1, 2, 3, temperature=2.0, max_tokens=6)
    likeliest = runner.run(gather(engine, replace(request, sampling={"top_k": 1})))
    assert len({completion.text for completion in likeliest}) == 1
    assert len({completion.text for completion in runner.run(gather(engine, request))}) == 3
    with pytest.raises(EngineDown, match="top_pp"):
        runner.run(gather(engine, replace(request, sampling={"top_pp": 0.9})))
    with pytest.raises(EngineDown, match=r"top_p must be in"):
        runner.run(gather(engine, replace(request, sampling={"top_p": 7.0})))


def test_an_unknown_option_of_the_engine_is_refused_in_its_words(runner: asyncio.Runner) -> None:
    with pytest.raises(EngineDown, match="tensor_parallel'"):
        runner.run(VLLMEngine.open(EMBEDDED, tensor_parallel=2))


def test_a_thought_that_the_prompt_opens_or_closes_is_known(
    runner: asyncio.Runner, engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}<think>"
        "{% if enable_thinking is defined and not enable_thinking %}</think>{% endif %}"
    )
    monkeypatch.setattr(engine._tokenizer, "chat_template", template)
    thinks = ask("Count: 1, 2, 3,", 1, temperature=0, max_tokens=8)
    (thought,) = runner.run(gather(engine, thinks))
    assert thought.thinking
    assert thought.text == ""
    assert thought.completion_tokens == 8
    (said,) = runner.run(gather(engine, replace(thinks, template={"enable_thinking": False})))
    assert said.thinking is None
    assert said.text
    with pytest.raises(EngineDown, match="does not read 'enable_thought'"):
        runner.run(gather(engine, replace(thinks, template={"enable_thought": False})))


def test_a_prefix_is_computed_once(runner: asyncio.Runner, engine: VLLMEngine) -> None:
    text = "Say which of these numbers is even: " + ", ".join(map(str, range(100, 260)))
    first, again = (runner.run(gather(engine, ask(text, seed)))[0] for seed in (1, 2))
    assert first.prompt_tokens == again.prompt_tokens == len(again.prompt_ids or ())
    assert (first.cached_tokens or 0) < 64
    assert 0 < (again.prompt_tokens or 0) - (again.cached_tokens or 0) <= 32  # one block
    assert (again.cached_tokens or 0) > 500
