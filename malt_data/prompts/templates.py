"""Prompts: one template per kind of question and role, shared by build, training and inference.

The templates are in `prompts.toml` (`prompts_embedded.toml` for the embedded model), and a user's
file can override any of them. The forest's manifest stores the templates that were used, so an
export renders exactly the messages that a role was sampled with.

    >>> prompts = load_prompts(None)
    >>> [m["role"] for m in render(prompts, "numeric", "What is 2 + 2?", None, ())]
    ['user']
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from malt_data.engines import Messages
from malt_data.errors import SpecError
from malt_data.graders import KINDS
from malt_data.schemas.roles import ROLES
from malt_data.storage.documents import read_settings_file

Prompts = Mapping[str, Mapping[str, Mapping[str, str]]]
"""kind → role → {"user": template, "system": template (optional)}."""

_REQUIRED = {
    "generator": {"question"},
    "verifier": {"question", "initial_answer"},
    "refiner": {"question", "initial_answer", "verification"},
}
_PLACEHOLDERS = ("question", "choices", "initial_answer", "verification")
_PLACEHOLDER = re.compile(rf"\{{({'|'.join(_PLACEHOLDERS)})\}}")
"""Only known names: a manifest from elsewhere may have others, which stay as they are."""
_BRACED = re.compile(r"\{(\w+)\}")


def load_prompts(
    path: str | Path | None, builtin_file: str = "prompts.toml"
) -> dict[str, dict[str, dict[str, str]]]:
    """Return the built-in templates, overridden by those in the TOML file at `path`.

    A kind that has no table in `builtin_file` is asked as `prompts.toml` says.
    Raises SpecError for an unreadable file, an unknown kind, role or placeholder, or a template
    without the placeholders that its role requires (*MALT* §4.1).
    """
    builtin = _builtin("prompts.toml") | _builtin(builtin_file)
    if path is None:
        return builtin
    return merge_prompts(builtin, read_settings_file(path, "prompts file"), str(path))


def _builtin(file: str) -> dict[str, dict[str, dict[str, str]]]:
    return tomllib.loads(resources.files(__package__).joinpath(file).read_text("utf-8"))


def merge_prompts(
    base: Prompts, overrides: object, where: str
) -> dict[str, dict[str, dict[str, str]]]:
    """Return the templates of `base`, overridden by `overrides`; errors mention `where`."""
    merged = {kind: {role: dict(parts) for role, parts in base[kind].items()} for kind in KINDS}
    for kind, roles in _table(overrides, where).items():
        if kind not in KINDS:
            raise SpecError(f"{where}: unknown kind [{kind}]. Use one of: {', '.join(KINDS)}.")
        for role, parts in _table(roles, f"{where}: [{kind}]").items():
            if role not in ROLES:
                raise SpecError(
                    f"{where}: unknown role [{kind}.{role}]. Use one of: {', '.join(ROLES)}."
                )
            checked = _table(parts, f"{where}: [{kind}.{role}]")
            _check(kind, role, checked, where)
            merged[kind][role] = {key: str(text) for key, text in checked.items()}
    return merged


def render(
    prompts: Prompts,
    kind: str,
    question: str,
    choices: Sequence[str] | None,
    path: Sequence[str],
) -> Messages:
    """Return the messages for the role that comes after `path`.

    path: the texts so far: () for the generator, (answer,) for the verifier,
    (answer, verification) for the refiner; an empty verification is allowed (§A.9).
    """
    parts = prompts[kind][ROLES[len(path)]]
    values = {
        "question": question,
        "choices": render_choices(choices),
        "initial_answer": path[0] if path else "",
        "verification": path[1] if len(path) > 1 else "",
    }
    return tuple(
        {"role": author, "content": _PLACEHOLDER.sub(lambda m: values[m[1]], parts[author])}
        for author in ("system", "user")
        if parts.get(author)
    )


def pieces(template: str) -> list[tuple[str, str | None]]:
    """Split a template into (literal text, name of the placeholder after it or None) pairs.

    >>> pieces("Question: {question}!")
    [('Question: ', 'question'), ('!', None)]
    """
    parts = _PLACEHOLDER.split(template)
    return list(zip(parts[::2], [*parts[1::2], None], strict=True))


def render_choices(choices: Sequence[str] | None) -> str:
    """Return the choices as `A. bank` lines; empty for a free-form question."""
    return "\n".join(f"{chr(ord('A') + i)}. {text}" for i, text in enumerate(choices or ()))


def _table(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise SpecError(f"{where} must be a table, not {value!r}.")
    return value


def _check(kind: str, role: str, parts: Mapping[str, object], where: str) -> None:
    name = f"{where}: [{kind}.{role}]"
    for key, text in parts.items():
        if key not in ("user", "system") or not isinstance(text, str):
            raise SpecError(
                f"{name} may only have 'user' and 'system' strings, not {key} = {text!r}."
            )
    if "user" not in parts:
        raise SpecError(f"{name} needs a 'user' template.")
    used = set(_BRACED.findall("".join(str(text) for text in parts.values())))
    required = _REQUIRED[role] | ({"choices"} if KINDS[kind].lettered else set())
    if unknown := used - {*_PLACEHOLDERS}:
        raise SpecError(f"{name}: unknown placeholder {{{sorted(unknown)[0]}}}.")
    if missing := required - used:
        raise SpecError(f"{name} must show the {role} {{{sorted(missing)[0]}}}.")
    unavailable = {"generator": {"initial_answer", "verification"}, "verifier": {"verification"}}
    if early := used & unavailable.get(role, set()):
        raise SpecError(f"{name}: the {role} comes before {{{sorted(early)[0]}}} is written.")
