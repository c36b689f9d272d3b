"""A model without a chat template, as base models are."""

from pathlib import Path

from malt_data.engines.embedded import EMBEDDED, resolve


def without_chat_template(folder: Path, model: str = EMBEDDED) -> str:
    """Make `folder` a copy of a model, by links, without its chat template; return its name."""
    folder.mkdir()
    for path in Path(resolve(model)).iterdir():
        if path.name != "chat_template.jinja":
            (folder / path.name).symlink_to(path)
    return str(folder)
