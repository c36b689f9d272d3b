"""A pipeline: the chain of turns by which a tree is grown, as data.

A shipped one is known by its name (`schemas/pipelines/*.toml`); a user's own is a TOML file with
the same tables:

    [[turns]]                     # in order
    role = "solver"
    n = 4                         # samples per parent; default 3
    [[turns]]
    role = "critic"
    judges = true                 # need not answer: its text is about the answer before it
    [[turns]]
    role = "solver"
    prompt = "second_solver"      # the name of its templates; default: the role

    [prompts.numeric.solver]      # KIND.NAME; roles of the shipped templates may leave them out
    user = "{question} …"
    [prompts.numeric.critic]
    user = "{question} … {solver} …"

    [aliases]                     # further placeholders: the nearest text above by one of these
    initial_answer = ["solver"]   # roles; always empty if there are none

    [chat_template]               # for a base model: plain text instead of a chat; or variables
    plain = true                  # of the model's template, such as enable_thinking = false
    stop = ["\\n"]

    >>> malt = shipped("malt")
    >>> malt.roles, malt.branching, malt.nodes_per_tree
    (('generator', 'verifier', 'refiner'), (3, 3, 3), 39)
    >>> str(shipped("refine").sampled(n=2, n_by_role={"refiner": 4}))
    'generator 2 → refiner 4'
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Annotated, Any, Self

import pyarrow as pa
from pydantic import ConfigDict, model_validator

from malt_data.errors import SpecError
from malt_data.schemas.model import Field, Model, require_storable

DEFAULT = "malt"
_NAME = r"^[a-z][a-z0-9_]{0,31}$"
MOST_TURNS = 8
MOST_SAMPLES = 1024
_MOST_NODES = 2**20

PREVIOUS = "previous"
"""The placeholder for the text of the turn before, whoever spoke."""
RESERVED = ("question", "choices", PREVIOUS, "all", "shared")
"""Names that a role cannot have: they are placeholders, or values of --role."""


class ChatTemplate(Model):
    """How messages become a prompt: with the model's chat template, or as plain text.

    Any further setting is a variable of the chat template, e.g. `enable_thinking = false`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    plain: bool = False
    """Send the text of the templates as it is, to a base model without a chat template."""
    stop: tuple[str, ...] = Field((), max_length=16)
    """Strings at which a completion ends; they are not part of its text."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(self.stop):
            raise ValueError("a stop string is empty")
        if self.plain and self.variables:
            raise ValueError(f"plain text has no chat template for {min(self.variables)!r}")
        require_storable(self.variables)
        return self

    @property
    def variables(self) -> dict[str, Any]:
        """The variables of the chat template that have a value."""
        return dict(self.model_extra or {})


class Turn(Model):
    """One place in a pipeline: who speaks, and how often under each text before."""

    role: str = Field(pattern=_NAME)
    n: int = Field(3, ge=1, le=MOST_SAMPLES)
    prompt: str | None = Field(None, pattern=_NAME)
    judges: bool = False
    """Whether its text is about the answer before it, and need not contain an answer."""

    @property
    def template(self) -> str:
        """The name of its prompt templates."""
        return self.prompt or self.role


Prompts = dict[str, dict[str, dict[str, str]]]
"""kind → name (a role, or a turn's `prompt`) → {"user": template, "system": template}."""


class Pipeline(Model):
    """The content of a pipeline file; see the module."""

    name: str = ""
    turns: tuple[Turn, ...] = Field(min_length=1, max_length=MOST_TURNS)
    aliases: dict[Annotated[str, Field(pattern=_NAME)], tuple[str, ...]] = {}
    prompts: Prompts = {}
    chat_template: ChatTemplate | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nodes_per_tree > _MOST_NODES:
            raise ValueError(f"a tree would have {self.nodes_per_tree} nodes: lower n")
        names = {*self.roles, *self.aliases}
        if wrong := names & {*RESERVED}:
            raise ValueError(f"{min(wrong)!r} has a meaning of its own: choose another name")
        if both := {*self.roles} & {*self.aliases}:
            raise ValueError(f"{min(both)!r} is a role and an alias")
        speakers: dict[str, str] = {}
        for turn in self.turns:
            if (other := speakers.setdefault(turn.template, turn.role)) != turn.role:
                raise ValueError(f"{other!r} and {turn.role!r} share the prompt {turn.template!r}")
        for alias, roles in self.aliases.items():
            if unknown := {*roles} - {*self.roles}:
                raise ValueError(f"alias {alias!r}: no turn has the role {min(unknown)!r}")
        return self

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles, in the order of their first turns."""
        return tuple(dict.fromkeys(turn.role for turn in self.turns))

    @property
    def judges(self) -> tuple[str, ...]:
        """The roles whose texts are about the answer before them."""
        return tuple(dict.fromkeys(turn.role for turn in self.turns if turn.judges))

    @property
    def branching(self) -> tuple[int, ...]:
        """Samples per parent, turn by turn."""
        return tuple(turn.n for turn in self.turns)

    @property
    def widths(self) -> tuple[int, ...]:
        """Nodes per tree, turn by turn; the last are the leaves."""
        widths, width = [], 1
        for n in self.branching:
            width *= n
            widths.append(width)
        return tuple(widths)

    @property
    def nodes_per_tree(self) -> int:
        """Nodes per tree: n + n² + n³ if three turns have the same branching (*MALT* §4.2)."""
        return sum(self.widths)

    def depths(self, role: str) -> tuple[int, ...]:
        """Return the depths, from 1, of the turns in which `role` speaks.

        Raises SpecError if it does not speak.
        """
        require_role(role, self.roles)
        return tuple(depth for depth, turn in enumerate(self.turns, 1) if turn.role == role)

    def sampled(self, n: int | None, n_by_role: Mapping[str, int]) -> "Pipeline":
        """Return this pipeline with other branching: `n_by_role`, else `n`, else its own."""
        if n is None and not n_by_role:
            return self
        for role in n_by_role:
            require_role(role, self.roles)
        turns = (
            turn.updated(n=n_by_role.get(turn.role, turn.n if n is None else n))
            for turn in self.turns
        )
        return self.updated(turns=tuple(turns))

    def chain(self, names: Sequence[str]) -> "Pipeline":
        """Return the pipeline of the turns called `names`, by their `prompt` or else their role.

        Each turn speaks once, and the texts of roles that are left out are empty. Raises SpecError
        if there is no such turn.
        """
        turns = {turn.template: turn for turn in reversed(self.turns)}
        for name in names:
            if name not in turns:
                raise SpecError(
                    f"The pipeline has no turn {name!r}. Its turns: {', '.join(reversed(turns))}."
                )
        chosen = tuple(turns[name].updated(n=1) for name in names)
        roles = {turn.role for turn in chosen}
        aliases = {
            name: tuple(role for role in self.aliases.get(name, (name,)) if role in roles)
            for name in (*self.aliases, *self.roles)
            if name not in roles
        }
        return self.updated(turns=chosen, aliases=aliases)

    def source(self, placeholder: str, turn: int) -> int | None:
        """Return the index of the turn whose text fills a placeholder of turn `turn`.

        None: its text is always empty. Raises SpecError if no turn above can fill it, or if there
        is none.
        """
        above = [each.role for each in self.turns[:turn]]
        roles: Sequence[str] = self.aliases.get(placeholder, (placeholder,))
        if turn and not roles:
            return None
        for index in reversed(range(turn)):
            if placeholder == PREVIOUS or above[index] in roles:
                return index
        raise SpecError(
            f"{{{placeholder}}} stands for a text above turn {turn + 1}, "
            f"{self.turns[turn].role}, but "
            + (f"only {', '.join(above)} spoke before it." if above else "it speaks first.")
        )

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The names that templates may use besides question and choices."""
        return (PREVIOUS, *self.roles, *self.aliases)

    def __str__(self) -> str:
        """Return the turns on one line: who speaks, how often, and with which templates."""
        return " → ".join(
            f"{turn.role} {turn.n}" + (f" ({turn.prompt})" if turn.prompt else "")
            for turn in self.turns
        )


def roles_table(pipeline: Pipeline) -> pa.Table:
    """Return the roles as a table for SQL: `role`, and whether it `judges` the answer before."""
    roles = pipeline.roles
    return pa.table({"role": roles, "judges": [role in pipeline.judges for role in roles]})


def require_role(role: str, roles: Sequence[str], where: str = "") -> None:
    """Raise SpecError unless `role` is one of `roles`; `where` begins the message."""
    if role not in roles:
        near = difflib.get_close_matches(role, roles, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise SpecError(
            f"{where}No turn has the role {role!r}; the roles are {', '.join(roles)}.{hint}"
        )


@cache
def shipped(name: str = DEFAULT) -> Pipeline:
    """Return the shipped pipeline `name`; raise SpecError if there is none."""
    if name not in SHIPPED:
        near = difflib.get_close_matches(name, SHIPPED, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise SpecError(
            f"Unknown pipeline {name!r}.{hint} Choose from {', '.join(SHIPPED)}, or pass a TOML "
            "file."
        )
    file = _FOLDER.joinpath(f"{name}.toml")
    return Pipeline(name=name, **tomllib.loads(file.read_text("utf-8")))


_FOLDER = resources.files(__package__).joinpath("pipelines")
SHIPPED: tuple[str, ...] = tuple(
    sorted(
        (file.name.removesuffix(".toml") for file in _FOLDER.iterdir()),
        key=lambda name: (name != DEFAULT, name),
    )
)
"""The names of the shipped pipelines, the default first."""
