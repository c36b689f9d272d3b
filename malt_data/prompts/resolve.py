"""Resolve sampling settings: model, token limit and prompts, as stored in a manifest.

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
"""The default token limit of a completion."""
EMBEDDED_MAX_TOKENS = 32
"""The same for the embedded model, which keeps generating long after it has answered."""

S = TypeVar("S", bound=SamplingSpec)


def resolve_sampling(
    spec: S, prompts_file: str | Path | None = None, engine: Engine | None = None
) -> S:
    """Return `spec` with defaults filled in; raise SpecError for an unknown engine or bad template.

    prompts_file: templates that override the built-in ones and those of the spec. engine: an engine
    opened by the caller; its model is used, and `spec.engine` is just a label.
    """
    default = default_model(spec.engine) if engine is None else engine.model
    model = spec.model or default
    embedded = model == EMBEDDED
    prompts = load_prompts(prompts_file, "prompts_embedded.toml" if embedded else "prompts.toml")
    if spec.prompts:  # validated even if a file overrides them
        merged = merge_prompts(prompts, spec.prompts, "prompts")
        prompts = merged if prompts_file is None else prompts
    limit = spec.max_tokens or (EMBEDDED_MAX_TOKENS if embedded else DEFAULT_MAX_TOKENS)
    return spec.model_copy(update={"model": model, "max_tokens": limit, "prompts": prompts})
