"""Options that several commands share, and the types of their values."""

from collections.abc import Callable, Iterable
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import click

from malt_data.errors import SpecError

Decorator = Callable[[Any], Any]

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)

json_option = click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
forest_argument = click.argument("forest", required=False)


class LateChoice(click.Choice[str]):
    """A choice of what the library knows, asked when it is needed: `--help` imports nothing."""

    def __init__(self, known: Callable[[], Iterable[str]]) -> None:
        self._known = known
        self.case_sensitive = True

    @cached_property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self._known())


class NewFolder(click.Path):
    """A folder to write into; `storage/folders.py` refuses some before anything is made."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from malt_data.storage.folders import refuse_folder

        refuse_folder(Path(value))
        return super().convert(value, param, ctx)


def setting(name: str, **options: Any) -> Decorator:
    """Return an option that, left out, is the config file's, the forest's or the default's."""
    return click.option(name, default=None, **options)


def given(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that were passed."""
    return {name: value for name, value in settings.items() if value is not None}


def read_config(path: Path | None) -> dict[str, Any]:
    """Return the tables of a `--config` file; none without one."""
    if path is None:
        return {}
    from malt_data.storage.documents import read_toml

    try:
        return read_toml(path)
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} is not valid TOML: {error}") from None


def together(*decorators: Decorator) -> Decorator:
    """Return one decorator that adds all of these options, in this order."""
    return lambda command: reduce(lambda done, add: add(done), reversed(decorators), command)


def engine_options(*, temperature: str = "0.3", tokens: str = "1024; embedded: 32") -> Decorator:
    """Return what chooses and steers the engine. temperature, tokens: the defaults, in words."""
    return together(
        setting("--engine", type=LateChoice(_engines), help="What samples."),
        setting("--model", help="Model name or folder.  [default: the embedded one]"),
        setting("--base-url", help="OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1"),
        setting("--temperature", type=float, help=f"[default: {temperature}]"),
        setting("--max-tokens", type=int, help=f"Tokens a completion.  [default: {tokens}]"),
    )


concurrency_option = setting(
    "--concurrency", type=int, help="Requests (openai) or sequences in flight."
)


def grader_option(help: str = "[default: auto]") -> Decorator:
    return setting("--grader", type=LateChoice(_graders), help=help)


def role_option(help: str, **options: Any) -> Decorator:
    return click.option("--role", type=LateChoice(_roles), help=help, **options)


def team_option(help: str, **options: Any) -> Decorator:
    return click.option("--team", type=FILE, help=help, **options)


def _engines() -> Iterable[str]:
    from malt_data.engines.opening import ENGINES

    return ENGINES


def _graders() -> Iterable[str]:
    from malt_data.graders import graders

    return graders()


def _roles() -> Iterable[str]:
    from malt_data.schemas.roles import ROLES

    return (*ROLES, "all")
