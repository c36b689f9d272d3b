"""`[engine]`, `[sampling]` and `[chat_template]`: passed on, stored, and refused where unknown."""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from builders.test_build import answer, build_command, write_questions
from openai_server import Fault, OpenAIServer
from shell import malt

from malt_data.engines import Engine, Request
from malt_data.engines.opening import open_engine
from malt_data.engines.prompts import encode, require_variables
from malt_data.errors import EngineDown, SpecError
from malt_data.schemas.pipeline import ChatTemplate
from malt_data.schemas.spec import BuildSpec

SWITCH = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{% endif %}"
)


@pytest.mark.slow
def test_what_a_config_says_is_sent_with_every_request_and_stored(tmp_path: Path) -> None:
    questions = write_questions(tmp_path / "q.jsonl", 2)
    config = tmp_path / "c.toml"
    config.write_text(
        '[engine]\nname = "openai"\nmax_retries = 2\n'
        '[sampling]\ntop_p = 0.9\nmin_p = 0.05\nstop = "END"\n'
        '[chat_template]\nenable_thinking = false\nstop = ["###"]\n'
    )
    with OpenAIServer(models=("m",), answer=answer) as server:
        command = ["build", "--questions", questions, "--base-url", server.base_url]
        run = malt(*command, "--n", 1, "--out", tmp_path / "f", "--config", config)
        assert run.returncode == 0, run.stderr
        for body in server.bodies:
            assert (body["top_p"], body["min_p"]) == (0.9, 0.05)
            assert body["stop"] == ["###", "END"]
            assert body["chat_template_kwargs"] == {"enable_thinking": False}
    spec = json.loads((tmp_path / "f" / "forest.json").read_text())["spec"]
    assert (spec["engine"], spec["engine_options"]) == ("openai", {"max_retries": 2})
    assert spec["sampling"] == {"top_p": 0.9, "min_p": 0.05, "stop": "END"}
    assert spec["chat_template"]["enable_thinking"] is False


@pytest.mark.slow
def test_a_server_refuses_an_unknown_parameter_in_its_own_words(tmp_path: Path) -> None:
    questions = write_questions(tmp_path / "q.jsonl", 2)
    config = tmp_path / "c.toml"
    config.write_text("[sampling]\ntop_pp = 0.9\n")
    fault = Fault(400, "Extra inputs are not permitted: top_pp")
    with OpenAIServer(models=("m",), refuse=lambda _: fault) as server:
        run = malt(*build_command(server, questions, tmp_path / "f", "--config", config))
    assert run.returncode == 1
    assert "Extra inputs are not permitted: top_pp" in run.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling": {"temperature": 1}}, "temperature has a setting or a table of its own"),
        ({"sampling": {"n": 1}}, "n has a setting"),
        ({"engine_options": {"api_key": "secret"}}, "leave api_key out"),
        ({"sampling": {"top_p": float("nan")}}, "only numbers, strings"),
        ({"chat_template": {"plain": True, "enable_thinking": True}}, "no chat template for"),
        ({"replicas": 0}, "replicas"),
        ({"sampling": {"stop": 3}}, "stop is not a string or a list"),
        ({"sampling": {"stop": ["a", ""]}}, "stop is not a string or a list"),
    ],
)
def test_settings_that_cannot_be_passed_on_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        BuildSpec(**settings)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("timeout", 3), ("base_url", "http://x"), ("self", 1)])
def test_the_openai_engine_refuses_unknown_options(name: str, value: object) -> None:
    spec = BuildSpec(
        engine="openai", base_url="http://127.0.0.1:9/v1", engine_options={name: value}
    )
    with pytest.raises(SpecError, match=rf"no option '{name}'.*max_retries, timeout_s, backoff_s"):
        asyncio.run(open_engine(spec))


def test_where_and_how_fast_it_is_sampled_does_not_make_another_forest() -> None:
    plain = BuildSpec().identity()
    placed = BuildSpec(replicas=2, ray="auto", engine_options={"tensor_parallel_size": 4})
    assert placed.identity() == plain
    assert BuildSpec(engine_options={"quantization": "fp8"}).identity() != plain
    assert BuildSpec(sampling={"top_k": 20}).identity() != plain
    assert BuildSpec(chat_template=ChatTemplate(enable_thinking=False)).identity() != plain


def test_a_variable_that_the_chat_template_does_not_read_is_refused() -> None:
    require_variables(SWITCH, {"enable_thinking": False}, "m")
    with pytest.raises(EngineDown, match=r"does not read 'enable_thinkin'.*enable_thinking"):
        require_variables(SWITCH, {"enable_thinkin": False}, "m")


@pytest.mark.model
def test_variables_reach_the_chat_template_of_a_local_model() -> None:
    transformers = pytest.importorskip("transformers")
    from malt_data.engines.embedded import EMBEDDED, resolve

    tokenizer = transformers.AutoTokenizer.from_pretrained(resolve(EMBEDDED))
    tokenizer.chat_template = SWITCH
    prompt = ({"role": "user", "content": "2 + 3?"},)
    texts = [
        tokenizer.decode(encode(tokenizer, prompt, "m", variables))
        for variables in ({}, {"enable_thinking": True}, {"enable_thinking": False})
    ]
    assert texts[0] == texts[1] == "<user>2 + 3?<assistant>"
    assert texts[2] == "<user>2 + 3?<assistant><think></think>"


@pytest.mark.model
def test_a_local_model_samples_as_told() -> None:
    pytest.importorskip("transformers")

    async def texts(engine: Engine, sampling: dict[str, Any]) -> set[str]:
        prompt = ({"role": "user", "content": "Name any number."},)
        request = Request(prompt, tuple(range(4)), 5.0, 6, sampling=sampling)
        return {completion.text async for _, completion in engine.complete(request)}

    async def run() -> None:
        engine = await open_engine(BuildSpec(concurrency=8))
        sample = partial(texts, engine)
        try:
            assert len(await sample({})) == 4  # at this temperature almost every token is possible
            for only_the_likeliest in ({"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}):
                assert len(await sample(only_the_likeliest)) == 1
            assert len(await sample({"top_k": 1, "repetition_penalty": 9.0})) == 1
            with pytest.raises(EngineDown, match=r"no sampling parameter 'top_pp'.* top_p, "):
                await sample({"top_pp": 0.9})
            with pytest.raises(EngineDown, match="transformers rejects top_p = 7"):
                await sample({"top_p": 7})
        finally:
            await engine.close()

    asyncio.run(run())


@pytest.mark.model
def test_an_option_that_a_local_model_does_not_have_is_refused_in_the_librarys_words() -> None:
    pytest.importorskip("transformers")
    spec = BuildSpec(engine_options={"attn_implementation": "flash_attention_9"})
    with pytest.raises(EngineDown, match="flash_attention_9"):
        asyncio.run(open_engine(spec))
    spec = BuildSpec(engine_options={"no_such_option": 1})
    with pytest.raises(EngineDown, match="no_such_option"):
        asyncio.run(open_engine(spec))


@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        ("transformers", {"batch_size": 8}, "may not hold batch_size"),
        ("vllm", {"concurrency": 8}, "may not hold concurrency"),
        ("openai", {"timeout_s": "10"}, "timeout_s is a number, not '10'"),
    ],
)
def test_options_that_have_a_place_of_their_own_or_are_no_number_are_refused(
    engine: str, options: dict[str, Any], message: str
) -> None:
    spec = BuildSpec(engine=engine, model="m", engine_options=options)
    with pytest.raises(SpecError, match=message):
        asyncio.run(open_engine(spec))


@pytest.mark.model
def test_a_device_that_is_not_there_and_broken_weights_are_explained(tmp_path: Path) -> None:
    from trainers.tiny import make_tiny

    model = Path(make_tiny(tmp_path / "tiny"))
    spec = BuildSpec(engine="transformers", model=str(model), engine_options={"device": "gpu"})
    with pytest.raises(EngineDown, match="There is no device 'gpu'"):
        asyncio.run(open_engine(spec))
    (weights,) = model.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EngineDown, match="could not be loaded"):
        asyncio.run(open_engine(BuildSpec(engine="transformers", model=str(model))))
