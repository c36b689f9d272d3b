"""The answers of llama.cpp, Ollama, SGLang and vLLM, in the form that each documents.

docs/servers.md says how they differ. llama.cpp's own server runs in test_llama_cpp.py.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from openai_server import CHAT, PLAIN, OpenAIServer

from malt_data.engines import Completion, Request
from malt_data.engines.openai import OpenAIEngine
from malt_data.errors import EngineDown, EngineError

Raw = Callable[[str, dict[str, Any]], tuple[int, object] | None]
MODELS = "/v1/models"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def ask(raw: Raw, request: Request, model: str | None = "m") -> tuple[list[Completion], Any]:
    """Return the completions of a request, by sample, and the bodies that the server got."""

    async def run() -> list[Completion]:
        engine = await OpenAIEngine.open(
            model, base_url=server.base_url, backoff_s=0.001, max_retries=3
        )
        try:
            done = {sample: each async for sample, each in engine.complete(request)}
        finally:
            await engine.close()
        return [done[sample] for sample in sorted(done)]

    with OpenAIServer(raw=raw) as server:
        return asyncio.run(run()), server.bodies


def chat(*seeds: int, **changes: Any) -> Request:
    message = {"role": "user", "content": "2 + 2?"}
    return Request((message,), seeds or (7,), **{"temperature": 0.3, "max_tokens": 50, **changes})


def always(body: object, status: int = 200, path: str = CHAT) -> Raw:
    return lambda at, _: (status, body) if at == path else None


def llama_cpp(texts: Sequence[str], first_tokens: int, **message: Any) -> dict[str, Any]:
    """A reply of llama.cpp: usage and timings are those of the first choice."""
    return {
        "choices": [
            {
                "finish_reason": "stop",
                "index": index,
                "message": {"role": "assistant", "content": text, **message},
            }
            for index, text in enumerate(texts)
        ],
        "created": 1795555176,
        "model": "/models/small.gguf",
        "system_fingerprint": "b9000-0000000",
        "object": "chat.completion",
        "usage": {
            "completion_tokens": first_tokens,
            "prompt_tokens": 45,
            "total_tokens": 45 + first_tokens,
            "prompt_tokens_details": {"cached_tokens": 44},
        },
        "id": "chatcmpl-1",
        "timings": {"cache_n": 44, "prompt_n": 1, "predicted_n": first_tokens, "predicted_ms": 9.5},
    }


def ollama(text: str, **message: Any) -> dict[str, Any]:
    """A reply of Ollama: one choice whatever n is, and no cached tokens."""
    message = {"role": "assistant", "content": text, **message}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1795555176,
        "model": "qwen3:8b",
        "system_fingerprint": "fp_ollama",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29},
    }


def sglang(*texts: str, reasoning: str | None = None, **choice: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1795555176,
        "model": "m",
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "reasoning_content": reasoning},
                "logprobs": None,
                "finish_reason": "stop",
                "matched_stop": 151645,
                **choice,
            }
            for index, text in enumerate(texts)
        ],
        "usage": {
            "prompt_tokens": 20,
            "total_tokens": 32,
            "completion_tokens": 12,
            "prompt_tokens_details": None,
            "reasoning_tokens": 0,
            "completion_tokens_details": None,
        },
        "metadata": {"weight_version": "default"},
    }


def vllm(*texts: str, reasoning: str | None = None, cached: int | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1795555176,
        "model": "m",
        "choices": [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": text,
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "reasoning": reasoning,
                },
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
                "token_ids": None,
            }
            for index, text in enumerate(texts)
        ],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": {
            "prompt_tokens": 20,
            "total_tokens": 32,
            "completion_tokens": 12,
            "prompt_tokens_details": None if cached is None else {"cached_tokens": cached},
        },
        "prompt_logprobs": None,
        "kv_transfer_params": None,
    }


# What is recorded


def test_llama_cpp_counts_the_tokens_of_its_first_choice_only() -> None:
    done, (body,) = ask(always(llama_cpp(["a longer text", "b", "c"], 14)), chat(1, 2, 3))
    assert body["n"] == 3
    assert [each.completion_tokens for each in done] == [14, None, None]
    assert [each.cached_tokens for each in done] == [44, 45, 45]
    (alone,), _ = ask(always(llama_cpp(["a"], 14)), chat(1))
    assert (alone.completion_tokens, alone.prompt_tokens) == (14, 45)


@pytest.mark.parametrize(
    "reply",
    [
        llama_cpp(["4"], 9, reasoning_content="2 and 2."),
        ollama("4", reasoning="2 and 2."),
        sglang("4", reasoning="2 and 2."),
        vllm("4", reasoning="2 and 2."),
    ],
    ids=["llama.cpp", "ollama", "sglang", "vllm"],
)
def test_the_reasoning_of_every_server_is_kept_apart(reply: object) -> None:
    (done,), _ = ask(always(reply), chat())
    assert (done.text, done.thinking, done.finish_reason) == ("4", "2 and 2.", "stop")


@pytest.mark.parametrize("reply", [sglang("4", "5"), vllm("4", "5")], ids=["sglang", "vllm"])
def test_fields_that_are_null_count_as_absent(reply: object) -> None:
    done, _ = ask(always(reply), chat(1, 2))
    assert [(each.text, each.thinking, each.cached_tokens) for each in done] == [
        ("4", None, None),
        ("5", None, None),
    ]
    assert [each.completion_tokens for each in done] == [6, 6]


def test_vllm_reports_cached_tokens_of_the_prompt_once() -> None:
    done, _ = ask(always(vllm("4", "5", cached=16)), chat(1, 2))
    assert [each.cached_tokens for each in done] == [16, 20]


def test_ollama_ignores_n_so_each_sample_is_requested_with_its_seed() -> None:
    done, bodies = ask(always(ollama("4")), chat(1, 2, 3))
    assert [(each.seed, each.completion_tokens) for each in done] == [(1, 9), (2, 9), (3, 9)]
    assert [body.get("n") for body in bodies] == [3, None, None]


def test_n_above_the_slots_of_llama_cpp_is_requested_sample_by_sample() -> None:
    message = "Field 'n': Value must be between 1 <= value <= 1, but got 2"
    error = {"error": {"code": 400, "message": message, "type": "invalid_request_error"}}
    reply = llama_cpp(["4"], 9)
    done, bodies = ask(
        lambda path, body: (400, error) if body.get("n", 1) > 1 else (200, reply), chat(1, 2)
    )
    assert [each.seed for each in done] == [1, 2]
    assert [body.get("n") for body in bodies] == [2, None, None]


def test_a_completion_that_the_server_aborted_is_requested_again() -> None:
    replies = [sglang("half an", finish_reason="abort"), sglang("4")]
    (done,), bodies = ask(lambda *_: (200, replies.pop(0)), chat())
    assert (done.text, len(bodies)) == ("4", 2)


def test_plain_text_of_ollama_and_llama_cpp_is_read() -> None:
    choice = {"text": " 4", "index": 0, "logprobs": None, "finish_reason": "length"}
    usage = {"completion_tokens": 2, "prompt_tokens": 5, "total_tokens": 7}
    reply = {"choices": [choice], "object": "text_completion", "model": "m", "usage": usage}
    (done,), _ = ask(always(reply, path=PLAIN), Request("2 + 2 =", (1,), 0.3, 2))
    assert (done.text, done.finish_reason, done.completion_tokens) == (" 4", "length", 2)


# Errors

TOO_LONG = {
    "llama.cpp": {
        "error": {
            "code": 400,
            "message": "request (3031 tokens) exceeds the available context size (512 tokens), try "
            "increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 3031,
            "n_ctx": 512,
        }
    },
    "ollama": {
        "error": {
            "message": "the input length exceeds the context length",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
    },
    "sglang": {
        "object": "error",
        "message": "The input (3031 tokens) is longer than the model's context length (512 "
        "tokens).",
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    },
    "sglang, with max_tokens": {
        "object": "error",
        "message": "Requested token count exceeds the model's maximum context length of 512 "
        "tokens. You requested a total of 600 tokens.",
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    },
    "vllm": {
        "error": {
            "message": "This model's maximum context length is 512 tokens. However, your prompt "
            "contains at least 513 input tokens.",
            "type": "BadRequestError",
            "param": "input_tokens",
            "code": 400,
        }
    },
    "vllm, with max_tokens": {
        "error": {
            "message": "max_tokens=700 cannot be greater than max_model_len=512.",
            "type": "BadRequestError",
            "param": "max_tokens",
            "code": 400,
        }
    },
    "openai": {
        "error": {
            "message": "Your input exceeds the context window of this model.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    },
}


@pytest.mark.parametrize("server", TOO_LONG)
def test_a_prompt_beyond_the_context_says_what_to_do(server: str) -> None:
    with pytest.raises(EngineError, match=r"rejected.*--max-tokens.*longer context") as failed:
        ask(always(TOO_LONG[server], 400), chat())
    assert not isinstance(failed.value, EngineDown)


def test_a_model_that_ollama_has_not_pulled_stops_the_build() -> None:
    message = 'model "m" not found, try pulling it first'
    error = {"message": message, "type": "not_found_error", "param": None, "code": None}
    with pytest.raises(EngineDown, match=r"try pulling it first.*--model"):
        ask(always({"error": error}, 404), chat())


def test_an_ollama_without_models_is_one_that_serves_none() -> None:
    with pytest.raises(EngineDown, match=r"serves 0 models \(none\)"):
        ask(always({"object": "list", "data": None}, path=MODELS), chat(), model=None)


LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}


def test_llama_cpp_is_waited_for_while_it_loads_its_model() -> None:
    replies = [(503, LOADING), (503, LOADING), (200, llama_cpp(["4"], 9))]
    (done,), _ = ask(lambda *_: replies.pop(0), chat())
    assert done.text == "4"


def test_loading_for_longer_than_the_retries_stops_the_build() -> None:
    with pytest.raises(EngineDown, match="still loading its model, after 4 attempts"):
        ask(always(LOADING, 503), chat())


def test_a_busy_ollama_is_retried() -> None:
    message = "server busy, please try again.  maximum pending requests exceeded"
    busy = {"error": {"message": message, "type": "api_error", "param": None, "code": None}}
    replies = [(503, busy), (200, ollama("4"))]
    (done,), _ = ask(lambda *_: replies.pop(0), chat())
    assert done.text == "4"


# Adapters

BASE = {"id": "m", "object": "model", "owned_by": "sglang", "root": "m", "parent": None}
LORA = {**BASE, "id": "lora", "root": "/adapters/lora", "parent": "m"}
GGUF = {"id": "m", "aliases": ["m", "small"], "object": "model", "owned_by": "llamacpp"}


def listing(*models: dict[str, Any]) -> Raw:
    listed = {"object": "list", "data": [*models]}
    return lambda path, _: (200, listed) if path == MODELS else (200, sglang("4"))


@pytest.mark.parametrize(
    ("models", "requested"),
    [
        ([BASE, LORA], "m:lora"),
        ([GGUF, {**GGUF, "id": "lora", "aliases": []}], "lora"),
        ([{**GGUF, "aliases": ["m", "lora"]}], "lora"),
        ([{**BASE, "owned_by": "vllm"}, {**LORA, "owned_by": "vllm"}], "lora"),
        ([{**BASE, "owned_by": "library"}], "lora"),
        ([], "lora"),
    ],
    ids=["sglang", "llama.cpp router", "llama.cpp alias", "vllm", "ollama", "nothing listed"],
)
def test_an_adapter_is_requested_as_its_server_names_it(
    models: list[dict[str, Any]], requested: str
) -> None:
    _, (body,) = ask(listing(*models), chat(adapter="lora"))
    assert body["model"] == requested


@pytest.mark.parametrize("model", [BASE, GGUF], ids=["sglang", "llama.cpp"])
def test_an_adapter_that_the_server_would_ignore_stops_the_build(model: dict[str, Any]) -> None:
    with pytest.raises(EngineDown, match="adapter 'lora', and would answer with its base model"):
        ask(listing(model), chat(adapter="lora"))


def test_a_server_without_a_list_of_models_gets_the_adapters_name() -> None:
    missing = {"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}}
    _, (body,) = ask(
        lambda path, _: (404, missing) if path == MODELS else (200, vllm("4")),
        chat(adapter="lora"),
    )
    assert body["model"] == "lora"
