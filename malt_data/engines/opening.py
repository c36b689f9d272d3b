"""Open engines by name; each is imported lazily, so that only its own library is loaded.

To add one, write a module with a class that implements `Engine`, and add a record to ENGINES.
"""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

from malt_data.engines import Engine
from malt_data.engines.embedded import EMBEDDED
from malt_data.errors import SpecError
from malt_data.schemas.spec import SamplingSpec

Note = Callable[[str], None]


@dataclass(frozen=True)
class _Opener:
    """How to open an engine, and its default model (None: the only one of its server).

    served: the model runs in a server, which has replicas of its own.
    """

    open: Callable[[SamplingSpec, Sequence[str], Note], Awaitable[Engine]]
    model: str | None
    served: bool = False


async def _transformers(spec: SamplingSpec, adapters: Sequence[str], note: Note) -> Engine:
    from malt_data.engines.transformers import TransformersEngine

    return await TransformersEngine.open(
        spec.model or EMBEDDED,
        batch_size=spec.concurrency or 64,
        note=note,
        **_own_options(spec),
    )


async def _vllm(spec: SamplingSpec, adapters: Sequence[str], note: Note) -> Engine:
    from malt_data.engines.vllm import VLLMEngine

    return await VLLMEngine.open(
        spec.model or EMBEDDED,
        concurrency=spec.concurrency or 256,
        adapters=tuple(adapters),
        note=note,
        **_own_options(spec),
    )


def _own_options(spec: SamplingSpec) -> dict[str, Any]:
    """Return the options of the engine itself, without those of its replicas."""
    if ours := {"batch_size", "concurrency", "adapters", "note"} & {*spec.engine_options}:
        raise SpecError(f"[engine] may not hold {min(ours)}: use --concurrency, or [adapters].")
    return {name: value for name, value in spec.engine_options.items() if name != "num_gpus"}


async def _openai(spec: SamplingSpec, adapters: Sequence[str], note: Note) -> Engine:
    from malt_data.engines.openai import OpenAIEngine

    known = [
        name
        for name in inspect.signature(OpenAIEngine).parameters
        if name not in ("model", "base_url", "api_key", "concurrency")
    ]
    for name in spec.engine_options:
        if name not in known:
            raise SpecError(
                f"The openai engine has no option {name!r}. [engine] may hold {', '.join(known)}."
            )
    for name, value in spec.engine_options.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise SpecError(f"engine: {name} is a number, not {value!r}.")
    options = {"concurrency": spec.concurrency, **spec.engine_options}
    return await OpenAIEngine.open(spec.model, base_url=spec.base_url, **options)


ENGINES: dict[str, _Opener] = {
    "transformers": _Opener(_transformers, EMBEDDED),
    "vllm": _Opener(_vllm, EMBEDDED),
    "openai": _Opener(_openai, None, served=True),
}


def default_model(engine: str) -> str | None:
    """Return the default model of an engine; None: the only one of its server.

    Raises SpecError for an unknown engine.
    """
    if engine not in ENGINES:
        raise SpecError(f"Unknown engine {engine!r}. Choose one of: {', '.join(ENGINES)}.")
    return ENGINES[engine].model


async def open_engine(
    spec: SamplingSpec, adapters: Sequence[str] = (), note: Note = lambda _: None
) -> Engine:
    """Open the engine of `spec`, or its replicas; raise EngineDown if that fails.

    adapters: folders or names of the LoRA adapters that requests may use. note: called before slow
    steps (unpacking or loading a model).
    """
    if spec.replicas is not None or spec.ray is not None:
        return await _replicas(spec, adapters, note)
    return await ENGINES[spec.engine].open(spec, adapters, note)


async def _replicas(spec: SamplingSpec, adapters: Sequence[str], note: Note) -> Engine:
    if ENGINES[spec.engine].served:
        raise SpecError(
            f"--replicas and --ray run models here; a server of the {spec.engine} engine has "
            "replicas of its own: start it with vllm serve --data-parallel-size N."
        )
    from malt_data.engines.replicas import Replicas

    alone = spec.model_copy(update={"replicas": None, "ray": None})
    return await Replicas.open(
        partial(open_engine, alone, tuple(adapters)),
        count=spec.replicas,
        address=spec.ray,
        num_gpus=_num_gpus(spec.engine_options),
        note=note,
    )


def _num_gpus(options: dict[str, Any]) -> float | None:
    """Return the GPUs of one replica, as `[engine]` says; None if it does not."""
    given = options.get("num_gpus")
    if given is None:
        parts = [options.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline")]
        if parts == [1, 1]:
            return None
        given = prod(parts) if all(isinstance(part, int) for part in parts) else -1
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < 1e4:
        raise SpecError("num_gpus in [engine] is the number of GPUs of a replica: 1, 0.5, …")
    return float(given)
