"""Options that several commands share, and the types of their values."""

from collections.abc import Callable, Iterable
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from malt_data.commands import completion

if TYPE_CHECKING:
    from malt_data.schemas.pipeline import Pipeline

Decorator = Callable[[Any], Any]

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
forest_argument = click.argument("forest", required=False, shell_complete=completion.forests)


def args_argument(metavar: str, **attributes: Any) -> Decorator:
    """Return `args`, which are [FOREST] and more."""
    return click.argument(
        "args", nargs=-1, metavar=metavar, shell_complete=completion.forests, **attributes
    )


class LazyChoice(click.Choice[str]):
    """A choice whose values are loaded when first needed, so that `--help` stays fast."""

    def __init__(self, load: Callable[[], Iterable[str]]) -> None:
        self._load = load
        self.case_sensitive = True

    @cached_property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self._load())

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if ctx is not None and ctx.resilient_parsing:  # the shell completes another option
            return value
        return super().convert(value, param, ctx)


class GraderName(LazyChoice):
    """A grader: `auto`, a kind, or a function of the user's own."""

    def __init__(self) -> None:
        super().__init__(_graders)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from malt_data.graders import is_own

        return value if is_own(value) else super().convert(value, param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        found = super().shell_complete(ctx, param, incomplete)
        return [item for item in found if ":" not in item.value]  # FILE.py:function is no name


class NewFolder(click.Path):
    """A folder to write to; `storage/folders.py` rejects unsuitable ones before work starts."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from malt_data.storage.folders import refuse_folder

        refuse_folder(Path(value))
        return super().convert(value, param, ctx)


def integer(low: int, high: int) -> dict[str, Any]:
    """Return the type of an option as keywords: `click.IntRange`, but `--help` hides the range.

    For ranges that only guard against overflow.
    """
    range_type = click.IntRange(low, high)

    def check(ctx: click.Context, param: click.Parameter, value: int | None) -> int | None:
        return None if value is None else range_type.convert(value, param, ctx)

    return {"type": int, "callback": check}


def setting(name: str, **attributes: Any) -> Decorator:
    """Return an option without a default of its own.

    If it is not passed, the value comes from the config file, the forest or the spec's default.
    """
    return click.option(name, default=None, **attributes)


def drop_unset(options: dict[str, Any]) -> dict[str, Any]:
    """Return only the options that were passed."""
    return {name: value for name, value in options.items() if value is not None}


def read_config(path: Path | None) -> dict[str, Any]:
    """Return the settings in a `--config` file, or no settings if there is no file.

    A `pipeline` may be a name or a file there, as for `--pipeline`. A table `engine` has the
    options of the engine; its `name` is the engine's.
    """
    if path is None:
        return {}
    from malt_data.storage.documents import read_settings_file

    settings = read_settings_file(path)
    if isinstance(named := settings.get("pipeline"), str):
        settings["pipeline"] = _pipeline(named)
    if isinstance(options := settings.get("engine"), dict):
        settings["engine_options"] = {k: v for k, v in options.items() if k != "name"}
        settings.pop("engine")
        if "name" in options:
            settings["engine"] = options["name"]
    return settings


def combine(*decorators: Decorator) -> Decorator:
    """Return one decorator that adds all of these options, in this order."""
    return lambda command: reduce(lambda done, add: add(done), reversed(decorators), command)


def engine_options(
    *, temperature: str = "0.3", max_tokens: str = "1024; embedded model: 32"
) -> Decorator:
    """Return the options of the inference engine; the arguments are the defaults shown in help."""
    return combine(
        setting(
            "--engine", type=LazyChoice(_engines), help="Inference engine.  [default: transformers]"
        ),
        setting("--model", help="Model name or folder.  [default: the embedded model]"),
        setting("--base-url", help="OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1"),
        setting(
            "--temperature", type=float, help=f"Sampling temperature.  [default: {temperature}]"
        ),
        setting(
            "--max-tokens",
            type=int,
            help=f"Maximum tokens per completion.  [default: {max_tokens}]",
        ),
    )


def capacity_options() -> Decorator:
    """Return the options for how much runs at once, and where."""
    return combine(
        setting(
            "--concurrency",
            type=int,
            help="Requests (openai) or sequences in flight.  [default: transformers 64, vllm 256; "
            "openai adapts to the server]",
        ),
        setting("--replicas", type=int, help="Copies of the engine, one per GPU, run by Ray."),
        setting(
            "--ray",
            is_flag=False,
            flag_value="auto",
            metavar="[ADDRESS]",
            help="Run the replicas on the Ray cluster at ADDRESS, e.g. head:6379, else on the one "
            "that runs here.",
        ),
    )


def grader_option(
    help: str = "How to grade: by kind, or with a function of your own (also MODULE:function).  "
    "[default: auto]",
) -> Decorator:
    return setting("--grader", type=GraderName(), help=help)


def pipeline_option(
    help: str = "Who speaks after whom: malt, malt2, generator, refine or a TOML file.  "
    "[default: malt]",
) -> Decorator:
    return setting(
        "--pipeline",
        metavar="NAME|FILE.toml",
        shell_complete=completion.pipelines,
        callback=lambda ctx, param, name: name and _pipeline(name),
        help=help,
    )


def role_option(help: str, **attributes: Any) -> Decorator:
    return click.option("--role", help=help, shell_complete=completion.roles, **attributes)


def team_option(help: str, **attributes: Any) -> Decorator:
    return click.option("--team", type=FILE, help=help, **attributes)


def _pipeline(name: str) -> "Pipeline":
    from malt_data.prompts.pipelines import find_pipeline

    return find_pipeline(name)


def _engines() -> Iterable[str]:
    from malt_data.engines.opening import ENGINES

    return ENGINES


def _graders() -> Iterable[str]:
    from malt_data.graders import graders

    return graders()
