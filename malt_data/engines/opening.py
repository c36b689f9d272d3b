"""Which engine a spec asks for, opened late so that only its own library is imported."""

from collections.abc import Callable

from malt_data.engines import Engine
from malt_data.engines.embedded import EMBEDDED
from malt_data.schemas.manifest import Spec

DEFAULT_MAX_TOKENS = {EMBEDDED: 32, "": 1024}
"""Tokens a completion may have where the spec does not say, by model; "" is any other."""


async def open_engine(spec: Spec, note: Callable[[str], None] = lambda _: None) -> Engine:
    """Return the engine of `spec`; raise EngineDown where it cannot be had.

    note: told what takes long (converting or loading a model).
    """
    if spec.engine == "openai":
        from malt_data.engines.openai import OpenAIEngine

        return await OpenAIEngine.open(
            spec.model, base_url=spec.base_url, concurrency=spec.concurrency or 32
        )
    if spec.engine == "vllm":
        from malt_data.engines.vllm import VLLMEngine

        return await VLLMEngine.open(
            spec.model or EMBEDDED,
            concurrency=spec.concurrency or 256,
            adapters=tuple(spec.adapters.values()),
            note=note,
        )
    from malt_data.engines.transformers import TransformersEngine

    return await TransformersEngine.open(
        spec.model or EMBEDDED, batch_size=spec.concurrency or 64, note=note
    )
