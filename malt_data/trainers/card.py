"""Render the model card of an adapter: data, base model, training and results."""

from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from malt_data import __version__
from malt_data.display import clean
from malt_data.exporters.selection import REASONS
from malt_data.trainers.recipe import Recipe


def _is_repo(name: str) -> bool:
    """Return whether a name is a repo's, not a folder's, which the Hub would refuse in a card."""
    from huggingface_hub import errors
    from huggingface_hub import utils as hub_utils

    utils: Any = hub_utils  # whose lazy exports have no types
    try:
        utils.validate_repo_id(name)
    except errors.HFValidationError:
        return False
    return "/" in name and not Path(name).exists()


def render_adapter_card(record: dict[str, Any]) -> str:
    """Return the README.md of an adapter from its `training.json`."""
    from huggingface_hub import ModelCardData

    dataset, _, commit = record["data"].partition("@")
    data = ModelCardData(
        library_name="peft",
        base_model=record["model"] if _is_repo(record["model"]) else None,
        datasets=[dataset] if commit and _is_repo(dataset) else None,
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
        version=__version__,
        record=record,
        arguments={**arguments, "max_length": record["max_length"]},
        lora=recipe.lora_arguments(),
        reasons=REASONS,
    )
