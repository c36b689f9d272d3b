"""Resolve sampling settings: model, token limit and prompts, as stored in a manifest.

>>> from malt_data.schemas.spec import BuildSpec
>>> resolve_sampling(BuildSpec()).model
'smollm2-135m'
"""

from pathlib import Path
from typing import TypeVar

from malt_data.engines import Engine
from malt_data.engines.embedded import EMBEDDED
from malt_data.engines.opening import default_model
from malt_data.prompts.templates import builtin, complete_prompts, merge_prompts
from malt_data.schemas.pipeline import ChatTemplate
from malt_data.schemas.spec import BuildSpec, EvalSpec
from malt_data.storage.documents import read_settings_file

DEFAULT_MAX_TOKENS = 1024
"""The default token limit of a completion."""
EMBEDDED_MAX_TOKENS = 32
"""The same for the embedded model, which keeps generating long after it has answered."""
PLAIN_STOP = ("\n",)
"""The stop strings of plain text by default: the built-in templates ask for one line."""

S = TypeVar("S", BuildSpec, EvalSpec)


def resolve_sampling(
    spec: S, prompts_file: str | Path | None = None, engine: Engine | None = None
) -> S:
    """Return `spec` with defaults filled in; raise SpecError for an unknown engine or bad template.

    prompts_file: templates that override the built-in ones, the pipeline's and those of the spec.
    engine: an engine opened by the caller; its model is used, and `spec.engine` is just a label.
    """
    default = default_model(spec.engine) if engine is None else engine.model
    model = spec.model or default
    embedded = model == EMBEDDED
    limit = spec.max_tokens or (EMBEDDED_MAX_TOKENS if embedded else DEFAULT_MAX_TOKENS)
    named = spec.model_copy(update={"model": model, "max_tokens": limit})
    return resolve_prompts(named, prompts_file, embedded=embedded)


def resolve_prompts(
    spec: S, prompts_file: str | Path | None = None, *, embedded: bool = False
) -> S:
    """Return `spec` with the templates of every turn; raise SpecError for a bad template.

    embedded: use the built-in templates of the embedded model.
    """
    pipeline = spec.pipeline
    chat = spec.chat_template
    if pipeline.chat_template is not None and "chat_template" not in spec.model_fields_set:
        chat = pipeline.chat_template
    if chat.plain and "stop" not in chat.model_fields_set:
        chat = chat.updated(stop=PLAIN_STOP)
    prompts = builtin(_builtin_file(chat, embedded))
    where = f"pipeline {pipeline.name}"
    for tables, named in ((pipeline.prompts, where), (spec.prompts, "prompts")):
        prompts = merge_prompts(prompts, tables, pipeline, named)
    if prompts_file is not None:
        tables = read_settings_file(prompts_file, "prompts file")
        prompts = merge_prompts(prompts, tables, pipeline, str(prompts_file))
    return spec.model_copy(
        update={
            "prompts": complete_prompts(prompts, pipeline),
            "chat_template": chat,
            # Both are settings of their own now.
            "pipeline": pipeline.updated(prompts={}, chat_template=None),
        }
    )


def _builtin_file(chat: ChatTemplate, embedded: bool) -> str:
    if chat.plain:
        return "prompts_plain.toml"
    return "prompts_embedded.toml" if embedded else "prompts.toml"
