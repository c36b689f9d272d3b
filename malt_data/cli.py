"""Every command: parse, call the library, print. Results to stdout, progress and notes to stderr.

    malt-data build --n 3
    malt-data sql "FROM role_stats"
    malt-data show

FOREST may be left out everywhere: then it is $MALT_FOREST or ./forest. Heavy libraries are
imported inside the commands, so that `--help` answers at once.

It is a long module on purpose: every command stands here, each no more than its options, one call
into the library and its print, so that a flag is looked for in one place.
"""

import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from malt_data import __version__
from malt_data.display import clean, sentence, spelt
from malt_data.errors import EvalError, ExportError, ForestError, MaltError, SpecError, of_system
from malt_data.storage.documents import read_toml

if TYPE_CHECKING:
    from malt_data.exporters.selection import Selection
    from malt_data.forests.forest import Forest
    from malt_data.storage.query import Source

DEMO_LIMIT = 16
"""Trees of a build that names neither questions nor a limit: minutes on two cores."""


_NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""What no argument can be used with: the end of a C string, bytes that are not UTF-8."""


class _Group(click.Group):
    """Turns our errors into one sentence on stderr and an exit code, in one place."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        with _fit_for_a_terminal():
            for argument in args:
                if _NO_TEXT.search(argument):
                    raise click.UsageError(f"{argument!r} holds a NUL or is not UTF-8.")
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _fit_for_a_terminal():
                return super().invoke(ctx)
        except MaltError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:  # the reader (head, less) had enough
            sys.stderr.close()
            ctx.exit(0)
        except OSError as error:
            click.echo(f"Error: {of_system(error)}", err=True)
            ctx.exit(1)


@contextmanager
def _fit_for_a_terminal() -> Iterator[None]:
    """Clean click's own errors, which quote what was typed, as ours are."""
    try:
        yield
    except click.UsageError as error:
        raise click.UsageError(sentence(error.format_message()), error.ctx) from None


class _NewFolder(click.Path):
    """A folder to write into; what is refused before anything is made: see `folders.py`."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from malt_data.storage.folders import refuse_folder

        refuse_folder(Path(value))
        return super().convert(value, param, ctx)


json_option = click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="malt-data")
def main() -> None:
    """Grow, grade, query and share multi-agent reasoning trees (MALT) as data.

    \b
    malt-data build --n 3              grow a forest in ./forest
    malt-data stats                    the health of each role
    malt-data show                     one tree, with values and labels
    malt-data sql "FROM pairs LIMIT 5" DuckDB over questions, nodes, pairs, …
    """


def _setting(name: str, **options: Any) -> Callable[[Any], Any]:
    """A build option; left out, it is the config file's, the forest's or the default, in turn."""
    return click.option(name, default=None, **options)


@main.command()
@click.option("--out", type=_NewFolder(), help="Folder of the forest.")
@_setting("--n", type=int, help="Samples a parent for every role.  [default: 3]")
@_setting("--n-generator", type=int, help="The same for one role.")
@_setting("--n-verifier", type=int, help="The same for one role.")
@_setting("--n-refiner", type=int, help="The same for one role.")
@_setting(
    "--questions",
    help="embedded, gsm8k, math, math500, csqa, gsm-symbolic[-p1|-p2], reasoning-gym:TASK, "
    "a JSONL, Parquet or CSV file, or a Hub dataset.  [default: embedded]",
)
@_setting("--split", help="Split of the source.  [default: train]")
@_setting("--limit", type=int, help="So many questions, drawn by the seed.")
@_setting("--shard", metavar="I/K", help="Only the I-th of K equal shares (one a machine).")
@_setting("--engine", type=click.Choice(["transformers", "vllm", "openai"]), help="What samples.")
@_setting("--model", help="Model name or folder.  [default: the embedded SmolLM2-135M]")
@click.option(
    "--team",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="team.toml: its model, and its adapter for each role.",
)
@click.option(
    "--adapters",
    "adapter_set",
    type=click.Choice(["team", "sft", "sft_long", "shared"]),
    help="Which adapters of --team; sft: a next round of STaR.  [default: team]",
)
@_setting("--base-url", help="OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1")
@_setting("--concurrency", type=int, help="Requests (openai) or sequences in flight.")
@_setting(
    "--grader", type=click.Choice(["auto", "numeric", "choice", "math"]), help="[default: auto]"
)
@_setting("--temperature", type=float, help="[default: 0.3]")
@_setting("--max-tokens", type=int, help="Tokens a completion.  [default: 1024; embedded: 32]")
@_setting("--seed", type=int, help="Seed of the build.  [default: 0]")
@click.option(
    "--prompts",
    "prompts_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TOML file with templates in place of ours.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TOML file with any of these settings, and threshold, pooling, fields, adapters.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done; sample and write nothing.")
@json_option
def build(
    out: Path | None,
    config: Path | None,
    team: Path | None,
    adapter_set: str | None,
    prompts_file: Path | None,
    dry_run: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Grow, grade and label a forest; run it again to complete or extend it.

    \b
    malt-data build --n 3
    malt-data build --questions gsm8k --engine vllm --model Qwen/Qwen3-4B
    malt-data build --questions mine.jsonl \\
        --engine openai --base-url http://127.0.0.1:8000/v1
    """
    from malt_data.builders.build import build_forest, plan, resolve
    from malt_data.commands.progress import Progress
    from malt_data.forests.forest import default_folder
    from malt_data.schemas.manifest import make_spec

    folder = out or default_folder()
    given = {key: value for key, value in settings.items() if value is not None}
    if adapter_set and team is None:
        raise click.UsageError("--adapters says which adapters of a team: give --team too.")
    asked = _team(team, adapter_set or "team") | _config(config) | given
    values = resolve(asked, folder)
    if not {"questions", "limit"} & set(values):
        values["limit"] = DEMO_LIMIT
        _note(f"Growing {DEMO_LIMIT} trees; --questions embedded grows the whole embedded set.")
    spec = make_spec(values)
    if dry_run:
        _facts(plan(spec, folder, prompts_file=prompts_file), as_json)
        return
    with Progress(spec.nodes_a_tree) as progress:
        report = build_forest(
            spec, folder, prompts_file=prompts_file, watch=progress.watch, note=progress.note
        )
    if as_json:
        click.echo(json.dumps({"forest": str(folder), **report.to_dict()}, indent=2))
    else:
        _say(report.summary(folder))
    _refused(report.refused)
    if report.interrupted:
        raise ForestError(
            "Interrupted; every finished tree is kept. Run the same command to go on."
        )
    if report.failed:
        first = next(iter(report.failed.items()))
        raise ForestError(
            f"{len(report.failed)} trees failed and stay out of the forest, the first "
            f"({first[0]}) with: {first[1]} Run the same command again to complete them."
        )


@main.command()
@click.argument("forest", required=False)
@click.option("--threshold", type=float, help="A node above it is positive.")
@click.option(
    "--pooling", type=click.Choice(["global", "local"]), help="Means or majorities (§A.5)."
)
@click.option("--grader", type=click.Choice(["auto", "numeric", "choice", "math"]))
@click.option("--out", type=_NewFolder(), help="Write a copy, leave FOREST as it is.")
@click.option("--dry-run", is_flag=True, help="Only report what would flip.")
@json_option
def relabel(
    forest: str | None,
    threshold: float | None,
    pooling: str | None,
    grader: str | None,
    out: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Label the same samples anew: no model call.

    \b
    malt-data relabel --threshold 0.7 --dry-run
    malt-data relabel --pooling local --out forest-local
    """
    from malt_data.forests.forest import open_forest
    from malt_data.forests.relabel import relabel as apply
    from malt_data.schemas.manifest import Labels, make_labels

    opened = open_forest(forest)
    asked = {"threshold": threshold, "pooling": pooling, "grader": grader}
    labels: Labels = make_labels(opened.manifest.labels, asked)
    flips = apply(opened, labels, regrade=grader is not None, out=out, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps({"labels": labels.model_dump(), "flips": flips}, indent=2))
        return
    _table([{"role": role, **counts} for role, counts in flips.items()])


@main.command()
@click.argument("args", nargs=-1, required=True, metavar="[FOREST] QUERY")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "jsonl", "parquet"]),
    help="[default: table on a terminal, else csv]",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def sql(args: tuple[str, ...], form: str | None, as_json: bool) -> None:
    """Run a read-only DuckDB query over the views of a forest, or of an evaluation's results.

    Views: questions, nodes, trajectories, pairs, role_stats, verdicts; of results: questions,
    completions, predictions, accuracy, cost, turns, ballots, turn_accuracy, flips, votes, verdicts.

    \b
    malt-data sql "SELECT role, avg(value) FROM nodes GROUP BY role"
    malt-data sql results "FROM flips"
    malt-data sql my-forest "FROM pairs" --format parquet > pairs.parquet
    """
    from malt_data.evaluation.results import MANIFEST, open_results
    from malt_data.storage.query import isolated

    if len(args) > 2:
        raise click.UsageError("Give [FOREST] QUERY; put the SQL in quotes.")
    named = args[0] if len(args) == 2 else None
    is_results = named is not None and (Path(named) / MANIFEST).exists()
    opened: Source = open_results(str(named)) if is_results else _open(named)
    chosen = "json" if as_json else form or ("table" if sys.stdout.isatty() else "csv")
    sys.exit(isolated(lambda: _print_query(opened, args[-1], chosen)))


@main.command()
@click.argument("forest", required=False)
@json_option
def stats(forest: str | None, as_json: bool) -> None:
    """Show the health of each role: labels, accuracy, usable pairs, tokens, cut-offs.

    \b
    malt-data stats
    """
    from malt_data.report import terminal as report

    facts = report.stats(_open(forest))
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        report.print_stats(facts, _console())


@main.command()
@click.argument("args", nargs=-1, metavar="[FOREST] [ID]")
@click.option("--full", is_flag=True, help="Do not fold long texts.")
@json_option
def show(args: tuple[str, ...], full: bool, as_json: bool) -> None:
    """Show the tree of a question or node id (or its start); the first tree without one.

    \b
    malt-data show
    malt-data show 5f3a/g0/v2
    """
    from malt_data.report import terminal as report

    opened, names = _forest_and_ids(args, 1)
    name = names[0] if names else None
    if as_json:
        click.echo(json.dumps(report.find_tree(opened, name).to_dicts(), indent=2))
    else:
        console = _console()
        report.show(opened, name, console, 0 if full else max(20, console.width - 40))


@main.command()
@click.argument("forest", required=False)
@click.option(
    "--role",
    type=click.Choice(["generator", "verifier", "refiner", "all"]),
    help="Whose texts are learnt.  [default: all]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["sft", "dpo", "kto", "value", "trajectory"]),
    help="What TRL is to read.  [default: sft and dpo]",
)
@click.option("--out", type=_NewFolder(), help="Folder.")
@_setting("--strategy", type=click.Choice(["all", "best_worst", "one"]), help="Pairs a parent.")
@_setting("--margin", type=float, help="Least difference of a pair's values.")
@_setting(
    "--positives",
    type=click.Choice(["all", "paired", "mixed"]),
    help="paired: with a negative sibling (MALT §4.3); mixed: of questions with negatives.",
)
@_setting("--max-per-parent", type=int, help="Rows a parent.")
@_setting("--max-per-question", type=int, help="Rows a question.")
@_setting("--validation", type=float, help="Share of the questions.  [default: 0.1]")
@_setting("--seed", type=int, help="Seed of the draws and the split.  [default: 0]")
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TOML file with any of these settings, and keep_ungraded, keep_truncated, "
    "keep_identical, drop_duplicates.",
)
@_setting("--tokenizer", help="Leave out rows that this model cannot take.")
@_setting("--max-length", type=int, help="Leave out rows of more tokens.")
@click.option(
    "--check",
    is_flag=True,
    help="Try the rows on the chat template (of --tokenizer, or of the forest's model).",
)
@click.option("--push", "repo", metavar="USER/NAME", help="Push forest and exports to the Hub.")
@click.option("--dry-run", is_flag=True, help="Only count what would be written and left out.")
@json_option
def export(
    forest: str | None,
    role: str | None,
    form: str | None,
    out: Path | None,
    config: Path | None,
    check: bool,
    repo: str | None,
    dry_run: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write datasets that TRL reads as they are, in exports/<role>_<format> of the forest.

    \b
    malt-data export --role refiner --format dpo
    malt-data export --check           all that train reads, on the template
    malt-data export --role verifier --format dpo --strategy one --push me/t
    """
    from malt_data.commands.progress import Steps
    from malt_data.exporters import export as exporting
    from malt_data.exporters.report import print_export
    from malt_data.exporters.selection import make_selection
    from malt_data.schemas.exports import RECIPE, configs

    opened = _open(forest)
    wanted = configs(role, form)
    if out is not None and len(wanted) > 1:
        raise click.UsageError("--out takes one dataset: give --role and --format too.")
    if repo is not None and out is not None:
        raise click.UsageError("--push sends the forest's own exports: leave --out away.")
    given = {key: value for key, value in settings.items() if value is not None}
    selection = make_selection(_config(config) | given)
    if check and dry_run:
        raise click.UsageError("--check looks at the rows written: leave --dry-run away.")
    checker = _checker(opened, selection) if check else None
    reports = []
    for each in wanted:
        if dry_run:
            reports.append(exporting.count(opened, each, selection))
            continue
        with Steps(each.name) as steps:
            reports.append(exporting.export(opened, each, selection, out, watch=steps.update))
    facts = {report.config: report.model_dump(mode="json") for report in reports}
    problems: list[str] = []
    if checker is not None:
        for each in wanted:
            found = checker(exporting.place(opened, each, out))
            if not (found["rows"] or each in RECIPE or form or role not in (None, "all")):
                found["problems"] = []  # a baseline may have no rows where nobody asked for it
            facts[each.name]["check"] = found
            problems += found["problems"]
    pushed = None
    if repo is not None and not dry_run and not problems:
        from malt_data.publish.push import push as send

        pushed = send(opened, repo)
        facts["push"] = asdict(pushed)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        for each, report in zip(wanted, reports, strict=True):
            folder = None if dry_run else exporting.place(opened, each, out)
            print_export(report, folder, facts[each.name].get("check"), _console())
        if pushed is not None:
            _say(pushed.summary())
    if problems:
        raise ExportError("This would break training: " + " ".join(problems))


@main.command()
@click.argument("args", nargs=-1, required=True, metavar="[FOREST] ID [ID]")
@json_option
def explain(args: tuple[str, ...], as_json: bool) -> None:
    """Prove a row: path, texts, leaves and values behind a label, and each export's verdict.

    Give a node_id, or the chosen_id and rejected_id of a dpo row.

    \b
    malt-data explain 5f5d63edee44763e/g0/v2
    """
    from malt_data.exporters.explain import explain as prove
    from malt_data.exporters.explain import print_explained

    opened, ids = _forest_and_ids(args, 2)
    if not ids:
        raise click.UsageError("Give the id of a node, e.g. from malt-data show.")
    facts = prove(opened, *ids)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        print_explained(facts, _console())


@main.command()
@click.argument("args", nargs=-1, required=True, metavar="[FOREST] USER/NAME")
@click.option(
    "--exports",
    help="Configs, e.g. refiner_dpo,verifier_sft; none.  [default: those there, or export's]",
)
@click.option("--revision", default="main", show_default=True, help="Branch; made if new.")
@click.option("--private", is_flag=True, help="Make a new repo private.")
@click.option("--tag", help="Name what was pushed.")
@click.option("--pr", is_flag=True, help="Open a pull request instead of committing.")
@click.option("--replace", is_flag=True, help="Overwrite what others changed there.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent.")
@json_option
def push(
    args: tuple[str, ...],
    exports: str | None,
    revision: str,
    private: bool,
    tag: str | None,
    pr: bool,
    replace: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Send forest, exports and card to a dataset repo on the Hub, as one commit.

    \b
    malt-data push me/trees
    malt-data push my-forest me/trees --tag v1 --exports refiner_dpo
    """
    from malt_data.publish.push import push as send

    if len(args) > 2:
        raise click.UsageError("Give [FOREST] USER/NAME.")
    names = None if exports is None else [n for n in exports.split(",") if n not in ("", "none")]
    pushed = send(
        _open(args[0] if len(args) == 2 else None),
        args[-1],
        exports=names,
        revision=revision,
        private=private,
        tag=tag,
        pull_request=pr,
        replace=replace,
        dry_run=dry_run,
    )
    if as_json:
        click.echo(json.dumps(asdict(pushed), indent=2))
    else:
        _say(pushed.summary(dry_run))


@main.command()
@click.argument("name", metavar="USER/NAME[@REVISION]")
@click.option("--out", type=_NewFolder(), help="[default: ./NAME]")
@json_option
def pull(name: str, out: Path | None, as_json: bool) -> None:
    """Fetch a forest and its exports from the Hub into a folder of your own.

    \b
    malt-data pull me/trees@v1
    """
    from malt_data.publish.push import pull as receive

    folder = receive(name, out)
    trees = len(_open(str(folder)).done)
    if as_json:
        click.echo(json.dumps({"forest": str(folder), "trees": trees}, indent=2))
    else:
        _say(f"{trees} trees in {folder}. Check them: malt-data verify {folder}")


@main.command()
@click.option(
    "--role",
    required=True,
    type=click.Choice(["generator", "verifier", "refiner", "all"]),
    help="all: the whole recipe, into one folder with a team.toml.",
)
@click.option(
    "--stage",
    type=click.Choice(["sft", "dpo"]),
    help="[default: sft]  With --role all: sft alone, no DPO.",
)
@click.option("--dataset", help="USER/NAME[@REVISION], a forest or an export.  [default: forest]")
@click.option("--model", help="Base model.  [default: the one that sampled the data]")
@click.option("--other-model", is_flag=True, help="Allow one that did not sample the data.")
@click.option("--adapter", help="Adapter to start from. dpo: the SFT adapter; also the reference.")
@click.option(
    "--out",
    required=True,
    type=_NewFolder(),
    help="Folder of the adapter.",
)
@click.option("--max-steps", type=click.IntRange(1, 10**9), help="Stop after so many steps.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    help="Seed of weights and data order.  [default: the recipe's]",
)
@click.option(
    "--recipe",
    default="malt",
    metavar="NAME|FILE",
    show_default=True,
    help="malt, dpo-nll, dpo-norm, dpo-anchored, or a TOML file.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TOML file on top of the recipe; [trainer] goes to TRL, [lora] to PEFT.",
)
@click.option("--no-baselines", is_flag=True, help="all: not what the team is compared to.")
@click.option("--push", "repo", metavar="USER/NAME", help="Send it to the Hub (all: NAME-ROLE).")
@json_option
def train(
    role: str,
    stage: str | None,
    dataset: str | None,
    adapter: str | None,
    out: Path,
    seed: int | None,
    recipe: str,
    config: Path | None,
    no_baselines: bool,
    repo: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a role's adapter, or the whole team; run it again to go on after a kill.

    \b
    malt-data train --role all --dataset me/trees@v1 --out team
    malt-data train --role all --recipe dpo-nll --seed 1 --out team-1
    malt-data train --role verifier --stage dpo --adapter v_sft --out v_dpo
    """
    from malt_data.commands.progress import Steps
    from malt_data.forests.forest import default_folder
    from malt_data.trainers.recipe import read_settings

    if no_baselines and role != "all":
        raise click.UsageError("--no-baselines is for --role all: leave it out.")
    settings = read_settings(config, recipe).seeded(seed)
    if no_baselines:
        settings = settings.model_copy(update={"baselines": False})
    options["settings"] = settings
    source = dataset or str(default_folder())
    folders = {"": out}
    with Steps(f"{role} {stage or ''}".strip()) as steps:
        options |= {"watch": steps.update, "note": steps.note}
        if role == "all":
            if stage == "dpo" or adapter:
                raise click.UsageError("--role all starts with SFT: omit --stage dpo, --adapter.")
            from malt_data.trainers.team import TEAM, read_team, train_team

            only: Any = stage
            records = dict(train_team(source, out, stage=only, **options))
            adapters = read_team(out / TEAM).adapters
            folders = {f"-{name}": Path(place) for name, place in adapters.items()}
        elif stage == "dpo":
            if adapter is None:
                raise click.UsageError("DPO starts from the SFT adapter: --adapter FOLDER")
            from malt_data.trainers.dpo import train_dpo

            records = {f"{role}_dpo": train_dpo(role, source, out, adapter=adapter, **options)}
        else:
            from malt_data.trainers.sft import train_sft

            records = {f"{role}_sft": train_sft(role, source, out, adapter=adapter, **options)}
    if repo is not None:
        from malt_data.publish.push import push_adapter

        for suffix, folder in folders.items():
            _note(f"{repo}{suffix}: commit {push_adapter(folder, repo + suffix)[:12]}")
    if as_json:
        click.echo(json.dumps({"out": str(out), **records}, indent=2))
    else:
        for name, record in records.items():
            _say(f"{name}: {record['steps']} steps on {record['rows']} rows of {record['data']}")


@main.command()
@click.argument("question")
@click.option(
    "--team",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="team.toml; without one the base model plays all roles.",
)
@click.option("--setting", help="[default: malt+mv with a team, else ma+mv]")
@_setting("--engine", type=click.Choice(["transformers", "vllm", "openai"]), help="What samples.")
@_setting("--model", help="Model name or folder.")
@_setting("--base-url", help="OpenAI-compatible server.")
@_setting(
    "--grader",
    type=click.Choice(["numeric", "math"]),
    help="Kind of a free-form question.  [default: the team's, or numeric]",
)
@click.option(
    "--choice",
    "choices",
    multiple=True,
    metavar="TEXT",
    help="An answer to choose from; give it once for each.",
)
@_setting("--temperature", type=float, help="[default: 0.3]")
@_setting("--max-tokens", type=int, help="Tokens a completion.")
@_setting("--seed", type=int, help="[default: 0]")
@json_option
def ask(
    question: str,
    team: Path | None,
    setting: str | None,
    choices: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Let a team answer one question, turn by turn.

    \b
    malt-data ask "What is 12 + 30?" --team team/team.toml
    malt-data ask "Which one barks?" --choice "a cat" --choice "a dog"
    """
    from malt_data.evaluation.evaluate import ask as answer_one
    from malt_data.evaluation.play import Turn
    from malt_data.evaluation.settings import find
    from malt_data.schemas.manifest import make_spec

    base, adapters, _ = _adapters(team)
    given = {key: value for key, value in options.items() if value is not None}
    spec = make_spec(base | given)
    chosen = find([setting or ("malt+mv" if team else "ma+mv")])[0]
    turns: list[dict[str, Any]] = []

    def heard(turn: Turn) -> None:
        turns.append({"pass": turn.passed, "role": turn.role, "text": turn.completion.text})
        if not as_json:
            head = click.style(f"{turn.passed + 1} {turn.role}", bold=True)
            click.echo(f"{head}\n{clean(turn.completion.text)}\n")

    answer, votes = answer_one(
        question, spec, chosen, adapters, choices=choices, seed=spec.seed, heard=heard, note=_note
    )
    if as_json:
        click.echo(json.dumps({"answer": answer, "votes": votes, "turns": turns}, indent=2))
    else:
        shown = ", ".join("none" if vote is None else vote for vote in votes)
        _say(f"Answer: {'none' if answer is None else answer} (votes: {shown})")


@main.command(name="eval")
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
@click.option("--questions", help="As for build.  [default: embedded]")
@_setting("--split", help="Split of the source.  [default: test]")
@click.option("--settings", default="sa,sa+mv,ma,ma+mv", help="[default: sa,sa+mv,ma,ma+mv]")
@click.option(
    "--settings-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TOML file with settings of your own.",
)
@click.option("--seeds", type=click.IntRange(1, 1000), default=4, show_default=True, help="Runs.")
@click.option("--limit", type=int, help="Questions a seed, drawn by it.  [default: all]")
@click.option(
    "--team",
    "teams",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="team.toml: model, adapters, and what they were trained on. Several: each is evaluated "
    "in a folder below --out, and the table is over all of them.",
)
@click.option("--allow-seen", is_flag=True, help="Ask questions that the team was trained on.")
@_setting("--engine", type=click.Choice(["transformers", "vllm", "openai"]), help="What samples.")
@_setting("--model", help="Model name or folder.  [default: the team's, or the embedded one]")
@_setting("--base-url", help="OpenAI-compatible server.")
@_setting("--concurrency", type=int, help="Requests (openai) or sequences in flight.")
@_setting(
    "--grader", type=click.Choice(["auto", "numeric", "choice", "math"]), help="[default: auto]"
)
@_setting("--temperature", type=float, help="[default: the team's, or 0.3]")
@_setting(
    "--max-tokens",
    type=int,
    help="Tokens a completion.  [default: the team's, or 1024; embedded: 32]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TOML file with any settings of a build.",
)
@click.option(
    "--out",
    type=_NewFolder(),
    default=Path("results"),
    show_default=True,
    help="Folder of the results.",
)
@click.option("--against", metavar="SETTING", help="Test the others against this setting.")
@click.option("--table", "join", is_flag=True, help="Only print one table of FOLDERS' results.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
@click.option("--figures", is_flag=True, help="Draw OUT/figures/*.svg.")
@click.option("--dry-run", is_flag=True, help="Show what would be asked; sample nothing.")
@json_option
def evaluate(
    folders: tuple[Path, ...],
    settings: str,
    settings_file: Path | None,
    seeds: int,
    teams: tuple[Path, ...],
    allow_seen: bool,
    config: Path | None,
    out: Path,
    against: str | None,
    join: bool,
    markdown: bool,
    figures: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Evaluate a team against baselines; run it again to complete or extend it.

    \b
    malt-data eval --settings sa,sa+mv,ma+mv --limit 50
    malt-data eval --settings sa+mv,malt+mv --team team/team.toml
    malt-data eval --settings malt+mv --team a/team.toml --team b/team.toml
    malt-data eval --table results other-results --markdown
    """
    from malt_data.commands.progress import Steps
    from malt_data.evaluation import tables
    from malt_data.evaluation.evaluate import evaluate as run
    from malt_data.evaluation.plan import Plan, plan
    from malt_data.evaluation.results import open_results
    from malt_data.evaluation.settings import find
    from malt_data.evaluation.teams import places, require_alike
    from malt_data.schemas.manifest import make_spec

    if join != bool(folders):
        raise click.UsageError("--table and FOLDERS go together: malt-data eval --table results")
    if join:
        _overview(folders, as_json, markdown)
        return
    named = [name.strip() for name in settings.split(",")]
    chosen = find([name for name in named if name], settings_file)
    given = {key: value for key, value in options.items() if value is not None}
    plans: list[Plan] = []
    for team, place in zip(teams or (None,), places(teams, out), strict=True):
        base, adapters, records = _adapters(team)
        if silent := [name for name, ids in records.items() if ids is None]:
            _note(
                f"{len(silent)} adapters, {silent[0]} among them, do not say what they were "
                "trained on: whether they have seen these questions is not known."
            )
        seen = frozenset[str]().union(*filter(None, records.values()))
        spec = make_spec({"split": "test"} | base | _config(config) | given)
        asked = [s for s in chosen if s.adapters != "none"] if plans else chosen
        plans.append(
            plan(spec, asked, adapters, place, seeds=seeds, seen=seen, allow_seen=allow_seen)
        )
    require_alike(plans)
    if against is not None:
        tables.require(against, list(dict.fromkeys(n for p in plans for n in p.names)))
    if dry_run:
        facts = {str(planned.out): planned.facts() for planned in plans}
        _facts(facts if len(plans) > 1 else plans[0].facts(), as_json)
        return
    _refused(plans[0].refused)
    for text in plans[0].manifest["questions"]["notes"]:
        _note(text)
    reports = []
    for planned in plans:
        with Steps("eval" if len(plans) == 1 else f"eval {planned.out.name}") as steps:
            reports.append(run(planned, watch=steps.update, note=steps.note))
    opened = [open_results(planned.out) for planned in plans]
    rows = tables.table(opened, against)
    if len({(row["questions"], row["seeds"]) for row in rows}) > 1:
        differing = ", ".join(f"{r['setting']} {r['questions']} × {r['seeds']}" for r in rows)
        _note(f"Not all settings were asked the same (questions × seeds): {differing}.")
    if figures:
        from malt_data.report.figures import draw

        for one in opened:
            for path in draw(one, one.folder / "figures"):
                _note(f"Drew {path}.")
    failed = {name: said for report in reports for name, said in report["failed"].items()}
    if as_json:
        counts = {key: sum(report[key] for report in reports) for key in ("units", "played")}
        report = {**counts, "failed": failed, "out": str(out), "settings": rows}
        click.echo(json.dumps(report, indent=2))
    elif markdown:
        click.echo(tables.markdown(rows))
    else:
        _table(tables.readable(rows, wide=_console().width > 90))
    if failed:
        first = next(iter(failed.items()))
        raise EvalError(
            f"{len(failed)} questions failed, the first ({first[0]}) with: {first[1]} "
            "Run the same command again to complete them."
        )


@main.command()
@click.argument("forest", required=False)
@json_option
def verify(forest: str | None, as_json: bool) -> None:
    """Check a forest and its exports, or one export: everything is recomputed.

    \b
    malt-data verify my-forest
    malt-data verify my-forest/exports/refiner_dpo
    """
    from malt_data.commands.progress import Steps
    from malt_data.exporters.export import EXPORT, exports_of
    from malt_data.exporters.export import FOLDER as EXPORTS
    from malt_data.exporters.verify import verify_export
    from malt_data.forests.verify import verify as check

    if forest is not None and (Path(forest) / EXPORT).exists():
        problems, sound = verify_export(Path(forest)), f"{forest} is sound."
    else:
        opened = _open(forest)
        with Steps("verify") as steps:
            forest, problems = str(opened.folder), check(opened, steps.update)
        exports = {} if opened.origin else exports_of(opened)
        for name in exports:
            found = verify_export(opened.folder / EXPORTS / name)
            problems += [f"{EXPORTS}/{name}: {problem}" for problem in found]
        also = f", {len(exports)} exports" if exports else ""
        sound = f"{forest} is sound: {len(opened.done)} trees{also}."
    if as_json:
        click.echo(json.dumps({"forest": forest, "problems": problems}, indent=2))
    else:
        for problem in problems:
            _say(problem)
    if problems:
        raise ForestError(f"{forest} has {len(problems)} problems, listed above.")
    if not as_json:
        _say(sound)


def _open(folder: str | None) -> "Forest":
    """Open a forest for reading, which no other process may rewrite until the command ends."""
    from malt_data.forests.forest import open_forest

    forest = open_forest(folder)
    click.get_current_context().with_resource(forest.reading())
    return forest


def _forest_and_ids(args: tuple[str, ...], most: int) -> tuple["Forest", tuple[str, ...]]:
    """Tell `[FOREST] [ID …]` apart: the first is a forest where one is there, or on the Hub."""
    from malt_data.forests.forest import is_forest

    named = bool(args) and (len(args) > most or is_forest(args[0]))
    if len(args) > most + named:
        raise click.UsageError(f"Give [FOREST] and at most {most} ids.")
    return _open(args[0] if named else None), args[named:]


def _checker(forest: "Forest", selection: "Selection") -> Callable[[Path], dict[str, Any]]:
    from malt_data.exporters import check
    from malt_data.exporters.fit import load_fit

    fit = load_fit(selection.tokenizer or forest.manifest.spec.model or "", selection.max_length)
    leaks = check.gold_leaks(forest)
    return lambda folder: check.check(folder, fit, leaks)


def _adapters(
    path: Path | None,
) -> tuple[dict[str, Any], dict[str, dict[str, str]], dict[str, frozenset[str] | None]]:
    """Return (settings, adapters by stage and role, ids each was trained on) of a team file."""
    if path is None:
        return {}, {}, {}
    from malt_data.trainers.team import read_team

    team = read_team(path)
    return {"model": team.model, **team.sampling}, team.by_set(), team.trained_on()


def _overview(folders: tuple[Path, ...], as_json: bool, markdown: bool) -> None:
    from malt_data.evaluation import tables
    from malt_data.evaluation.results import open_results

    rows = tables.overview([open_results(folder) for folder in folders])
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if markdown:
        click.echo(tables.markdown_overview(rows))
    else:
        _table(tables.readable_overview(rows, width=_console().width))
    _note("Accuracy, % ± its deviation over seeds, or over teams where there are several (n − 1).")


def _team(path: Path | None, adapters: Any) -> dict[str, Any]:
    if path is None:
        return {}
    from malt_data.trainers.team import read_team

    team = read_team(path)
    return {"model": team.model, "adapters": team.require(adapters), **team.sampling}


def _config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return read_toml(path)
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} is no valid TOML: {error}") from None


def _print_query(source: "Source", query: str, form: str) -> None:
    import polars as pl

    from malt_data.report import terminal as report
    from malt_data.storage.query import run

    if form == "parquet" and sys.stdout.isatty():
        raise SpecError("Parquet is not for the terminal; send it to a file: > rows.parquet")
    frame = pl.DataFrame(run(source, query, printable=form != "parquet"))
    if form == "table":
        if left := report.print_rows(frame, _console()):
            _note(f"{left} more rows; --format csv shows all.")
    elif sys.stdout.isatty():
        rows = io.BytesIO()
        report.write_rows(frame, form, rows)
        click.echo(clean(rows.getvalue().decode()), nl=False)
    else:
        report.write_rows(frame, form, sys.stdout.buffer)


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


def _table(rows: list[dict[str, Any]]) -> None:
    import polars as pl

    from malt_data.report.terminal import print_rows

    print_rows(pl.DataFrame(rows), _console())


def _facts(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        _say(f"{name.replace('_', ' ')}: {value}")


def _refused(refused: dict[str, int]) -> None:
    for reason, count in refused.items():
        _note(f"{count} questions refused: {reason}")


def _say(text: str) -> None:
    click.echo(spelt(text))


def _note(text: str) -> None:
    click.echo(sentence(text), err=True)
