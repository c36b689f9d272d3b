"""What is sampled, spelled out: model, token limit and prompts, as a manifest keeps them.

>>> resolve_sampling(SamplingSpec()).model
'smollm2-135m'
"""

from pathlib import Path
from typing import TypeVar

from malt_data.engines import Engine
from malt_data.engines.embedded import EMBEDDED
from malt_data.engines.opening import default_model
from malt_data.prompts.templates import load_prompts, merge_prompts
from malt_data.schemas.spec import SamplingSpec

DEFAULT_MAX_TOKENS = 1024
"""Tokens a completion may have where nothing else is asked for."""
EMBEDDED_MAX_TOKENS = 32
"""The same for the embedded model, which runs on long after it has answered."""

S = TypeVar("S", bound=SamplingSpec)


def resolve_sampling(
    spec: S, prompts_file: str | Path | None = None, engine: Engine | None = None
) -> S:
    """Return `spec` with its defaults filled in; raise SpecError for an unknown engine or template.

    prompts_file: templates in place of ours and of the spec's. engine: one that the caller opened;
    its model counts then, and `spec.engine` may be any name for it.
    """
    named = default_model(spec.engine) if engine is None else engine.model
    model = spec.model or named
    embedded = model == EMBEDDED
    prompts = load_prompts(prompts_file, "prompts_embedded.toml" if embedded else "prompts.toml")
    if spec.prompts:  # checked even where a file stands in their place
        given = merge_prompts(prompts, spec.prompts, "prompts")
        prompts = given if prompts_file is None else prompts
    limit = spec.max_tokens or (EMBEDDED_MAX_TOKENS if embedded else DEFAULT_MAX_TOKENS)
    return spec.model_copy(update={"model": model, "max_tokens": limit, "prompts": prompts})
