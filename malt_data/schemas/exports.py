"""The export formats and the columns of each (`export/1`).

Every format can be read by TRL directly and has additional columns for the origin of a row. A
config is the dataset of a role in a format, named `<role>_<format>`; `trajectory` spans all roles.

    >>> [config.name for config in recipe_configs(("solver", "critic"))]
    ['solver_sft', 'critic_sft', 'critic_dpo']

Two things add to the columns of a format: variables of the chat template, with which TRL renders
each row, and, if it is selected, the thinking of reasoning models. Prompts never contain thinking.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from malt_data.errors import SpecError
from malt_data.schemas.pipeline import ChatTemplate, require_role

STAMP = b"export/1"
"""`malt.schema` in the footer of every exported shard."""

SPLITS = ("train", "validation")

VARIABLES = "chat_template_kwargs"
"""The column with the variables of the chat template, as TRL calls it."""
REASONING = "reasoning_content"
"""The key of a message with its thinking, as most chat templates call it. It is empty where there
is none: TRL passes keys on even if they are null, and some templates would write `None`."""

Strategy = Literal["all", "best_worst", "one"]
Positives = Literal["all", "paired", "mixed"]


def _column(name: str, kind: pa.DataType, doc: str) -> pa.Field:
    return pa.field(name, kind, metadata={"doc": doc})


_message = {"role": pa.string(), "content": pa.string()}
_messages = pa.list_(pa.struct(_message))
_thoughtful = pa.list_(pa.struct(_message | {REASONING: pa.string()}))
_prompt = _column("prompt", _messages, "the messages that the role was sampled with")
_completion = _column("completion", _messages, "one assistant message: the text sampled")
_question = _column("question_id", pa.string(), "the question, and so the tree")
_node = _column("node_id", pa.string(), "the node whose text this is")
_value = _column("value", pa.float64(), "mean reward of the leaves under the node (MALT §4.2)")


@dataclass(frozen=True)
class Format:
    """An export format. To add one, add a record to FORMATS.

    unit: what a row is made from, which determines the queries (exporters/queries/<unit>s.sql for
    candidates, <unit>_rows.sql for rows). teaches: which candidates a trainer can learn from, which
    determines the rules (exporters/selection.py): positive texts, pairs, both labels, or any value.
    """

    name: str
    unit: Literal["node", "pair", "trajectory"]
    teaches: Literal["positives", "pairs", "labels", "values"]
    columns: tuple[pa.Field, ...]


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("sft", "node", "positives", (_prompt, _completion, _question, _node, _value)),
        Format(
            "dpo",
            "pair",
            "pairs",
            (
                _prompt,
                _column("chosen", _messages, "one assistant message: the positive sibling"),
                _column("rejected", _messages, "one assistant message: the negative sibling"),
                _question,
                _column("chosen_id", pa.string(), "node of chosen"),
                _column("rejected_id", pa.string(), "node of rejected"),
                _column("chosen_value", pa.float64(), "value of chosen"),
                _column("rejected_value", pa.float64(), "value of rejected"),
            ),
        ),
        Format(
            "kto",
            "node",
            "labels",
            (
                _prompt,
                _completion,
                _column("label", pa.bool_(), "value above the threshold: desirable"),
                _question,
                _node,
                _value,
            ),
        ),
        Format(
            "trajectory",
            "trajectory",
            "positives",
            (
                _prompt,
                _column(
                    "completion",
                    _messages,
                    "the texts of the path, turn by turn, blank lines between",
                ),
                _question,
                _column("node_id", pa.string(), "the leaf; its path is in its name"),
                _column("value", pa.float64(), "reward of the leaf"),
            ),
        ),
        Format("value", "node", "values", (_prompt, _completion, _question, _node, _value)),
    )
}


@dataclass(frozen=True)
class Config:
    """One dataset: a format for a role, or for all (None, in trajectories)."""

    role: str | None
    format: Format

    @property
    def name(self) -> str:
        return f"{self.role}_{self.format.name}" if self.role else self.format.name

    @property
    def ids(self) -> list[str]:
        """The columns that identify a row."""
        names = ("node_id", "chosen_id", "rejected_id")
        return [field.name for field in self.format.columns if field.name in names]

    @property
    def schema(self) -> pa.Schema:
        """The columns; prompts and completions are lists of messages."""
        return self.schema_for(ChatTemplate())

    def schema_for(self, template: ChatTemplate, *, thinking: bool = False) -> pa.Schema:
        """Return the columns for a chat template, with the thinking of the texts or without.

        With `plain`, prompts and completions are strings. Raises SpecError if the template's
        variables cannot be a column.
        """
        thinking = thinking and self.format.unit != "trajectory"  # which joins several texts
        columns = [_adapted(field, template.plain, thinking) for field in self.format.columns]
        if template.variables:
            doc = "variables of the chat template, with which TRL renders the row"
            columns.append(_column(VARIABLES, _type_of(template.variables), doc))
        return pa.schema(columns, metadata={b"malt.schema": STAMP})


def _adapted(field: pa.Field, plain: bool, thinking: bool) -> pa.Field:
    """Return a column of messages as plain text, or with its thinking; others as they are."""
    thinking = thinking and field.name != "prompt"
    if field.type != _messages or not (plain or thinking):
        return field
    doc: str = field.metadata[b"doc"].decode()
    if plain:
        doc = f"{doc.removeprefix('one assistant message: ')}, as plain text"
        return _column(field.name, pa.string(), f"{doc} behind its thinking" if thinking else doc)
    return _column(field.name, _thoughtful, f"{doc}; {REASONING}: its thinking, empty if none")


def _type_of(variables: Mapping[str, Any]) -> pa.DataType:
    try:
        column = pa.array([variables])
    except pa.ArrowException:  # e.g. a list of numbers and strings
        column = None
    # Tables in a list get the keys of each other, and Parquet has no empty tables.
    if column is None or column.to_pylist() != [variables] or "struct<>" in str(column.type):
        raise SpecError(
            f"[chat_template] {dict(variables)} cannot be a column of a training set. Use numbers, "
            "strings, booleans, and lists of one type."
        )
    return column.type


def config_named(name: str) -> Config:
    """Return the config called `name`, e.g. `refiner_dpo`; raise SpecError if there is none."""
    role, _, form = name.rpartition("_")
    return config_of(role or None, form)


def config_of(role: str | None, form: str) -> Config:
    """Return the config of a format for a role, or for None in trajectories.

    Raises SpecError if there is no such config.
    """
    known = form in FORMATS and (FORMATS[form].unit == "trajectory") is (role is None)
    if not known or (role is not None and not re.fullmatch("[a-z][a-z0-9_]*", role)):
        raise SpecError(
            f"Unknown export {f'{role}_{form}' if role else form!r}. Name it ROLE_FORMAT, with one "
            f"of the formats {', '.join(FORMATS)}; trajectories have no role."
        )
    return Config(role, FORMATS[form])


def all_configs(roles: Sequence[str]) -> tuple[Config, ...]:
    """Return every export of a forest with these roles."""
    node = [form for form in FORMATS.values() if form.unit != "trajectory"]
    whole = [form for form in FORMATS.values() if form.unit == "trajectory"]
    return (
        *(Config(role, form) for role in roles for form in node),
        *(Config(None, form) for form in whole),
    )


def recipe_configs(roles: Sequence[str]) -> tuple[Config, ...]:
    """Return what MALT trains on: SFT for all roles, DPO for all but the first (§4.3)."""
    return tuple(
        config_of(role, form)
        for index, role in enumerate(roles)
        for form in (("sft", "dpo") if index else ("sft",))
    )


def default_configs(roles: Sequence[str]) -> tuple[Config, ...]:
    """Return what is exported by default: SFT and DPO for all roles.

    The pairs of the first role are an option of the recipe, and for a baseline.
    """
    return tuple(config_of(role, form) for role in roles for form in ("sft", "dpo"))


def select_configs(roles: Sequence[str], role: str | None, form: str | None) -> list[Config]:
    """Return the configs that `--role` and `--format` select; without both, the default ones.

    A role without a format selects its part of them; a format without a role applies to all roles.
    Raises SpecError for an unknown role, and for trajectories of one role.
    """
    if form is not None and FORMATS[form].unit == "trajectory":
        if role not in (None, "all"):
            raise SpecError("Trajectories span all roles: leave out --role.")
        return [config_of(None, form)]
    if role not in (None, "all"):
        require_role(str(role), roles)
    return [
        config
        for config in (default_configs(roles) if form is None else all_configs(roles))
        if role in (None, "all", config.role) and form in (None, config.format.name) and config.role
    ]
