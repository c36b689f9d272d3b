"""Export layouts: the rows of an export, as trainers other than TRL read them.

Rows are computed once, in TRL's form. A layout renames and nests their columns, without touching a
text, and says what lies beside the shards. `docs/layouts.md` shows how each tool loads them.

    malt-data export --role refiner --format dpo --layout llamafactory
    # forest/exports/refiner_dpo_llamafactory: dataset_info.json, train/train-00000.parquet, …

    >>> LAYOUTS["openai"].formats["dpo"]
    "{'messages': prompt} AS input, chosen AS preferred_output, rejected AS non_preferred_output"
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malt_data.errors import SpecError
from malt_data.exporters.selection import Selection
from malt_data.exporters.shards import Suffix
from malt_data.schemas.exports import SPLITS, Config
from malt_data.schemas.layout import ORIGIN
from malt_data.schemas.pipeline import ChatTemplate

TRL = "trl"
"""The default: Parquet shards that `load_dataset` and TRL read as they are."""
TRACES = "traces"
"""Sessions for the Hub's trace viewer, see `exporters/traces.py`: a file a row, not shards."""

_MESSAGES = "list_concat(prompt, completion) AS messages"
_ONE_EACH = "prompt AS messages, chosen[1] AS chosen, rejected[1] AS rejected"
_RL = (
    "source AS data_source, prompt, kind AS ability, "
    "{'style': 'rule', 'ground_truth': gold} AS reward_model, "
    "{'question_id': question_id, 'kind': kind, 'choices': choices} AS extra_info"
)

Beside = Callable[[Config, ChatTemplate, Path, Mapping[str, list[str]]], Mapping[str, str]]


@dataclass(frozen=True)
class Layout:
    """A layout. formats: export format → SQL of its columns.

    beside: the files to write next to the shards (name → content), given the config, the chat
    template, the folder of the export, and the shards by split. thinking: the formats in which
    the tool reads `reasoning_content`. variables: those in which it passes variables on to the chat
    template. nested: a folder for each split. foreign: whether it takes columns that it does not
    know; otherwise they are in a folder of their own.
    """

    name: str
    tool: str
    formats: Mapping[str, str]
    thinking: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    suffix: Suffix = "parquet"
    nested: bool = False
    foreign: bool = True
    beside: Beside = lambda config, template, folder, shards: {}

    def shards(self, folder: Path, split: str) -> list[Path]:
        """Return the shards of a split in `folder`, in the order of their rows."""
        home = folder / split if self.nested else folder
        return sorted(home.glob(f"{split}-*.{self.suffix}"))

    def origins(self, folder: Path, split: str) -> list[Path]:
        """Return the Parquet files with the ids of a split's rows, in the same order."""
        if self.foreign:
            return self.shards(folder, split)
        return sorted((folder / ORIGIN).glob(f"{split}-*.parquet"))


def _dataset_info(
    config: Config, template: ChatTemplate, folder: Path, shards: Mapping[str, list[str]]
) -> dict[str, str]:
    """Return LLaMA-Factory's description of the splits, `<config>` and `<config>_validation`."""
    form = config.format.name
    columns = {"messages": "messages"}
    if form == "dpo":
        columns |= {"chosen": "chosen", "rejected": "rejected"}
    if form == "kto":
        columns["kto_tag"] = "label"
    info: dict[str, Any] = {
        "formatting": "sharegpt",  # `openai` adds "detailed thinking off" to the system prompt
        "columns": columns,
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
    if form == "dpo":
        info["ranking"] = True
    names = {"train": config.name, "validation": f"{config.name}_validation"}
    described = {names[split]: {"file_name": split, **info} for split in SPLITS if shards[split]}
    return {"dataset_info.json": json.dumps(described, indent=2) + "\n"}


def _axolotl(
    config: Config, template: ChatTemplate, folder: Path, shards: Mapping[str, list[str]]
) -> dict[str, str]:
    """Return the part of an Axolotl config that loads the shards."""
    import yaml

    form = config.format.name
    dataset = {"type": "chat_template"}
    settings: dict[str, Any] = {"chat_template": "tokenizer_default"}
    if form == "dpo":
        dataset = {"type": "chat_template.default", "field_messages": "prompt"}
        settings["rl"] = "dpo"
    if template.variables:
        settings["chat_template_kwargs"] = template.variables
    for key, split in (("datasets", "train"), ("test_datasets", "validation")):
        if shards[split]:
            files = [str(folder / name) for name in shards[split]]
            where = {"path": str(folder), "ds_type": "parquet", "data_files": files}
            settings[key] = [{**where, "split": "train", **dataset}]
    return {"axolotl.yaml": yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)}


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "llamafactory",
            "LLaMA-Factory",
            formats={
                "sft": _MESSAGES,
                "trajectory": _MESSAGES,
                "dpo": _ONE_EACH,
                "kto": _MESSAGES,
            },
            nested=True,
            beside=_dataset_info,
        ),
        Layout(
            "axolotl",
            "Axolotl",
            formats={
                "sft": _MESSAGES,
                "trajectory": _MESSAGES,
                "dpo": "prompt, chosen, rejected",
            },
            thinking=("sft",),
            variables=("sft", "trajectory"),
            beside=_axolotl,
        ),
        Layout(
            "openai",
            "OpenAI",
            formats={
                "sft": _MESSAGES,
                "trajectory": _MESSAGES,
                "dpo": "{'messages': prompt} AS input, chosen AS preferred_output, "
                "rejected AS non_preferred_output",
            },
            suffix="jsonl",
            foreign=False,
        ),
        Layout(
            "verl",
            "verl",
            formats={"sft": _MESSAGES, "trajectory": _MESSAGES, "value": _RL},
            thinking=("sft", "value"),  # its prompts for RL have none
        ),
        Layout(
            TRACES,
            "the trace viewer",
            formats={"trajectory": ""},
            variables=("trajectory",),  # nothing renders them
            suffix="jsonl",
        ),
    )
}


def layout_named(name: str) -> Layout | None:
    """Return the layout called `name`, or None for TRL's; raise SpecError if there is none."""
    if name != TRL and name not in LAYOUTS:
        raise SpecError(f"Unknown layout {name!r}. Choose one of {TRL}, {', '.join(LAYOUTS)}.")
    return LAYOUTS.get(name)


def adapt(
    layout: Layout, config: Config, selection: Selection, template: ChatTemplate
) -> Selection:
    """Return the selection for a layout: verl's prompts for RL are one row a prompt.

    Raises SpecError for what the tool cannot read.
    """
    form = config.format.name
    other = "Choose another --format or --layout."
    if template.plain:
        raise SpecError(
            f"{config.name}: the prompts are plain text, but {layout.tool} gets chats. Export it "
            "for TRL: leave out --layout."
        )
    if form not in layout.formats:
        known = ", ".join(layout.formats)
        raise SpecError(f"{config.name}: {layout.tool} does not know {form}, but {known}. {other}")
    thinking = selection.thinking and config.format.unit != "trajectory"
    if thinking and form not in layout.thinking:
        raise SpecError(
            f"{config.name}: {layout.tool} does not train on thinking in {form}. Export without "
            f"thinking = true. {other}"
        )
    if template.variables and form not in layout.variables:
        raise SpecError(
            f"{config.name}: {layout.tool} does not pass {', '.join(template.variables)} on to the "
            f"chat template in {form}, so it would train on other prompts. {other}"
        )
    if form == "value" and selection.max_per_parent is None:
        return selection.model_copy(update={"max_per_parent": 1})
    return selection
