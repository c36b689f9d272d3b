"""Render the model card of an adapter: data, base model, training and results."""

from importlib import resources
from typing import Any

import jinja2

from malt_data.display import clean
from malt_data.exporters.selection import REASONS
from malt_data.storage.provenance import version
from malt_data.trainers.recipe import Recipe


def render_adapter_card(record: dict[str, Any]) -> str:
    """Return the README.md of an adapter from its `training.json`."""
    from huggingface_hub import ModelCardData

    on_hub = "@" in record["data"]
    data = ModelCardData(
        library_name="peft",
        base_model=record["model"] if "/" in record["model"] else None,
        datasets=[record["data"].partition("@")[0]] if on_hub else None,
        pipeline_tag="text-generation",
        tags=["malt-data", "malt", record["role"], record["stage"], "lora", "trl"],
    )
    recipe = Recipe(**record["settings"])
    arguments = recipe.arguments(record["stage"], record["rows"])
    if record.get("max_steps") is not None:
        arguments["max_steps"] = record["max_steps"]
    if arguments.get("max_steps", -1) > 0:  # which takes the place of the epochs
        del arguments["num_train_epochs"]
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    environment.filters["clean"] = lambda value: clean(str(value)).replace("|", "\\|")
    template = environment.from_string(
        resources.files(__package__).joinpath("adapter.md.jinja").read_text("utf-8")
    )
    return template.render(
        metadata=data.to_yaml(),
        version=version(),
        record=record,
        arguments={**arguments, "max_length": record["max_length"]},
        lora=recipe.lora_arguments(),
        reasons=REASONS,
    )
