"""Open engines by name; each is imported lazily, so that only its own library is loaded.

To add one, write a module with a class that implements `Engine`, and add a record to ENGINES.
"""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from malt_data.engines import Engine
from malt_data.engines.embedded import EMBEDDED
from malt_data.errors import SpecError
from malt_data.schemas.spec import SamplingSpec

Note = Callable[[str], None]


@dataclass(frozen=True)
class _Opener:
    """How to open an engine, and its default model (None: the only one of its server)."""

    open: Callable[[SamplingSpec, Sequence[str], Note], Awaitable[Engine]]
    model: str | None


async def _transformers(spec: SamplingSpec, adapters: Sequence[str], note: Note) -> Engine:
    from malt_data.engines.transformers import TransformersEngine

    return await TransformersEngine.open(
        spec.model or EMBEDDED, batch_size=spec.concurrency or 64, note=note, **spec.engine_options
    )


async def _vllm(spec: SamplingSpec, adapters: Sequence[str], note: Note) -> Engine:
    from malt_data.engines.vllm import VLLMEngine

    return await VLLMEngine.open(
        spec.model or EMBEDDED,
        concurrency=spec.concurrency or 256,
        adapters=tuple(adapters),
        note=note,
        **spec.engine_options,
    )


async def _openai(spec: SamplingSpec, adapters: Sequence[str], note: Note) -> Engine:
    from malt_data.engines.openai import OpenAIEngine

    known = inspect.signature(OpenAIEngine).parameters
    for name in spec.engine_options:
        if name not in known:
            raise SpecError(
                f"The openai engine has no option {name!r}. [engine] may hold {', '.join(known)}."
            )
    options = {"concurrency": spec.concurrency, **spec.engine_options}
    return await OpenAIEngine.open(spec.model, base_url=spec.base_url, **options)


ENGINES: dict[str, _Opener] = {
    "transformers": _Opener(_transformers, EMBEDDED),
    "vllm": _Opener(_vllm, EMBEDDED),
    "openai": _Opener(_openai, None),
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
    """Open the engine of `spec`; raise EngineDown if that fails.

    adapters: folders or names of the LoRA adapters that requests may use. note: called before slow
    steps (unpacking or loading a model).
    """
    return await ENGINES[spec.engine].open(spec, adapters, note)
