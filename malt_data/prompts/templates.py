"""Prompts: one template per kind of question and turn, shared by build, training and inference.

The built-in templates are in `prompts*.toml`; a pipeline and a user's file can override any of them
and add others. The forest's manifest stores the templates that were used, so an export renders
exactly the prompt that a role was sampled with.

    >>> from malt_data.schemas.pipeline import shipped
    >>> prompts = complete_prompts(builtin(), shipped())
    >>> [m["role"] for m in render(prompts, shipped(), "numeric", "What is 2 + 2?", None, ())]
    ['user']
"""

import contextlib
import difflib
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING

from malt_data.errors import SpecError
from malt_data.graders import KINDS
from malt_data.graders.kinds import OWN_KIND
from malt_data.schemas.pipeline import PREVIOUS, Pipeline, Prompts, Turn

if TYPE_CHECKING:
    from malt_data.engines import Prompt

_SPEAKERS = ("system", "user")
_BRACED = re.compile(r"\{(\w+)\}")


def builtin(file: str = "prompts.toml") -> Prompts:
    """Return built-in templates; a kind without a table in `file` has those of `prompts.toml`."""
    return _read("prompts.toml") | _read(file)


def _read(file: str) -> Prompts:
    return tomllib.loads(resources.files(__package__).joinpath(file).read_text("utf-8"))


def merge_prompts(base: Prompts, overrides: object, pipeline: Pipeline, where: str) -> Prompts:
    """Return the templates of `base`, overridden by `overrides`; errors mention `where`.

    Raises SpecError for an unknown turn or placeholder, or a template that does not show what its
    turn must see (*MALT* §4.1).
    """
    merged = {kind: dict(names) for kind, names in base.items()}
    known = list(dict.fromkeys(turn.template for turn in pipeline.turns))
    for kind, names in _table(overrides, where).items():
        _check_kind(kind, where)
        for name, parts in _table(names, f"{where}: [{kind}]").items():
            if name not in known:
                raise SpecError(
                    f"{where}: unknown role [{kind}.{name}]. Use one of: {', '.join(known)}."
                )
            checked = _check_parts(_table(parts, f"{where}: [{kind}.{name}]"), kind, name, where)
            for index, turn in enumerate(pipeline.turns):
                if turn.template == name:
                    _check_placeholders(pipeline, index, kind, checked, where)
            merged.setdefault(kind, {})[name] = checked
        if missing := [name for name in known if name not in merged.get(kind, {})]:
            raise SpecError(f"{where}: kind {kind!r} needs a template [{kind}.{missing[0]}] too.")
    return merged


def complete_prompts(prompts: Prompts, pipeline: Pipeline) -> Prompts:
    """Return the templates of the pipeline's turns, of the kinds that have one for every turn."""
    names = [turn.template for turn in pipeline.turns]
    return {
        kind: {name: templates[name] for name in names}
        for kind, templates in prompts.items()
        if all(name in templates for name in names)
    }


def require_prompts(prompts: Prompts, pipeline: Pipeline, kinds: Collection[str]) -> None:
    """Raise SpecError if questions of one of `kinds` cannot be asked, or a turn would not see what
    its template shows: built-in templates need the aliases of the shipped pipelines.
    """
    for kind in sorted(kinds):
        if kind not in prompts:
            names = dict.fromkeys(turn.template for turn in pipeline.turns)
            raise SpecError(
                f"There are questions of kind {kind!r}, but no prompts for them. Add "
                + ", ".join(f"[prompts.{kind}.{name}]" for name in names)
                + " to the pipeline file."
            )
        for index, turn in enumerate(pipeline.turns):
            _check_placeholders(pipeline, index, kind, prompts[kind][turn.template], "prompts")


def kept_kinds(prompts: Prompts, before: Prompts) -> Prompts:
    """Return the templates of the kinds that were there before.

    A kind added to malt-data since a forest or an evaluation was begun changes nothing in it.
    """
    return {kind: templates for kind, templates in prompts.items() if kind in before}


def render(
    prompts: Prompts,
    pipeline: Pipeline,
    kind: str,
    question: str,
    choices: Sequence[str] | None,
    texts: Sequence[str],
    *,
    plain: bool = False,
) -> "Prompt":
    """Return the prompt of the turn that comes after `texts`; see `Script`, for many of them."""
    return Script(prompts, pipeline, plain=plain).render(kind, question, choices, texts)


class Script:
    """The prompts of a pipeline. Each template is only read once.

    plain: prompts are one text for a base model instead of messages. A placeholder of the pipeline
    that no turn fills is empty (*MALT* §A.9).
    """

    def __init__(self, prompts: Prompts, pipeline: Pipeline, *, plain: bool = False) -> None:
        self._prompts, self._pipeline, self._plain = prompts, pipeline, plain
        self._read: dict[tuple[str, int], list[tuple[str, list[tuple[str, int]]]]] = {}

    def render(
        self, kind: str, question: str, choices: Sequence[str] | None, texts: Sequence[str]
    ) -> "Prompt":
        """Return the prompt of the turn that comes after `texts`, the texts of the turns before.

        Raises SpecError if a template shows a text that comes later.
        """
        turn = len(texts)
        if (kind, turn) not in self._read:
            spoken = templates(self._prompts, kind, self._pipeline.turns[turn])
            self._read[kind, turn] = [(who, self._pieces(text, turn)) for who, text in spoken]
        values = ["", question, render_choices(choices), *texts]
        messages = [
            (who, "".join([literal + values[source] for literal, source in parts]))
            for who, parts in self._read[kind, turn]
        ]
        if self._plain:
            return "\n\n".join([text for _, text in messages])
        return tuple([{"role": who, "content": text} for who, text in messages])

    def _pieces(self, template: str, turn: int) -> list[tuple[str, int]]:
        """Split a template into (literal, index in `values` of what comes after it) pairs."""
        return [
            (literal, self._place(name, turn)) for literal, name in pieces(template, self._pipeline)
        ]

    def _place(self, name: str | None, turn: int) -> int:
        if name in (None, "question", "choices"):
            return (None, "question", "choices").index(name)
        source = self._pipeline.source(str(name), turn)
        return 0 if source is None else 3 + source


def templates(prompts: Prompts, kind: str, turn: Turn) -> list[tuple[str, str]]:
    """Return (speaker, template) of each message of a turn's prompt; empty if there is none."""
    parts = prompts.get(kind, {}).get(turn.template, {})
    return [(speaker, parts[speaker]) for speaker in _SPEAKERS if parts.get(speaker)]


def pieces(template: str, pipeline: Pipeline) -> list[tuple[str, str | None]]:
    """Split a template into (literal text, name of the placeholder after it or None) pairs.

    Other names in braces stay as they are: a manifest from elsewhere may have them.

    >>> from malt_data.schemas.pipeline import shipped
    >>> pieces("Question: {question}! {other}", shipped())
    [('Question: ', 'question'), ('! {other}', None)]
    """
    return _pieces(template, ("question", "choices", *pipeline.placeholders))


@lru_cache(maxsize=256)
def _pieces(template: str, names: tuple[str, ...]) -> list[tuple[str, str | None]]:
    parts = re.split(rf"\{{({'|'.join(names)})\}}", template)
    return list(zip(parts[::2], [*parts[1::2], None], strict=True))


def render_choices(choices: Sequence[str] | None) -> str:
    """Return the choices as `A. bank` lines; empty for a free-form question."""
    return "\n".join(f"{chr(ord('A') + i)}. {text}" for i, text in enumerate(choices or ()))


def _table(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise SpecError(f"{where} must be a table, not {value!r}.")
    return value


def _check_kind(kind: str, where: str) -> None:
    """Raise SpecError for a misspelt kind; other names are kinds of the user's own."""
    near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.8)  # `code` is no misspelt `choice`
    if kind not in KINDS and (near or not OWN_KIND.fullmatch(kind)):
        hint = f"Did you mean [{near[0]}]?" if near else "A kind is a lower-case name."
        raise SpecError(f"{where}: unknown kind [{kind}]. {hint}")


def _check_parts(parts: Mapping[str, object], kind: str, name: str, where: str) -> dict[str, str]:
    where = f"{where}: [{kind}.{name}]"
    texts = {}
    for key, text in parts.items():
        if key not in _SPEAKERS or not isinstance(text, str):
            raise SpecError(
                f"{where} may only have 'user' and 'system' strings, not {key} = {text!r}."
            )
        texts[key] = text
    if "user" not in texts:
        raise SpecError(f"{where} needs a 'user' template.")
    return texts


def _check_placeholders(
    pipeline: Pipeline, index: int, kind: str, parts: Mapping[str, str], where: str
) -> None:
    """Check that a turn sees the question and the texts that it is about."""
    turn = pipeline.turns[index]
    where = f"{where}: [{kind}.{turn.template}]"
    used = dict.fromkeys(_BRACED.findall("".join(parts.values())))
    shown: set[int | None] = set()
    for name in used:
        if name in ("question", "choices"):
            continue
        if name not in pipeline.placeholders:
            names = ("question", "choices", *pipeline.placeholders)
            known = ", ".join(f"{{{each}}}" for each in names)
            raise SpecError(f"{where}: unknown placeholder {{{name}}}. There are {known}.")
        try:
            shown.add(pipeline.source(name, index))
        except SpecError as error:
            raise SpecError(f"{where}: {error}") from None
    required = ["question", *(["choices"] if kind in KINDS and KINDS[kind].lettered else [])]
    for name in required:
        if name not in used:
            raise SpecError(f"{where} must show the {turn.role} {{{name}}}.")
    for source in sorted(_required(pipeline, index) - shown):
        raise SpecError(f"{where} must show the {turn.role} {{{_name(pipeline, source, index)}}}.")


def _required(pipeline: Pipeline, index: int) -> set[int]:
    """Return the turns that turn `index` must see: the one before, and what that one judges."""
    if index < 2 or not pipeline.turns[index - 1].judges:
        return {index - 1} - {-1}
    return {index - 2, index - 1}


def _name(pipeline: Pipeline, source: int, index: int) -> str:
    """Return the placeholder in turn `index` of the text of turn `source`."""
    for name in (*pipeline.aliases, *pipeline.roles):
        with contextlib.suppress(SpecError):
            if pipeline.source(name, index) == source:
                return name
    return PREVIOUS
