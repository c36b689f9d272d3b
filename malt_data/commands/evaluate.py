"""`ask` a team one question, `eval` it against baselines."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from malt_data.commands import completion
from malt_data.commands.options import (
    FILE,
    LazyChoice,
    NewFolder,
    capacity_options,
    drop_unset,
    engine_options,
    grader_option,
    integer,
    json_option,
    pipeline_option,
    read_config,
    setting,
    team_option,
)
from malt_data.commands.output import (
    console,
    note,
    note_refused,
    print_facts,
    print_json,
    print_table,
    say,
)
from malt_data.display import clean
from malt_data.errors import EvalError

if TYPE_CHECKING:
    from malt_data.evaluation.plan import Plan
    from malt_data.evaluation.play import Turn
    from malt_data.evaluation.results import Results
    from malt_data.evaluation.settings import Setting
    from malt_data.schemas.pipeline import Pipeline
    from malt_data.schemas.team import Team

_CAPTION = "Accuracy in %, ± standard deviation (n − 1) over seeds, or over teams if several."
_TEAM_DEFAULTS = {
    "temperature": "the team's, else 0.3",
    "max_tokens": "the team's, else 1024; embedded model: 32",
}


def _free_form_kinds() -> tuple[str, ...]:
    from malt_data.graders import KINDS

    return tuple(name for name, kind in KINDS.items() if not kind.lettered)


@click.command()
@click.argument("question")
@team_option("team.toml to read; without it, the base model plays every role.")
@click.option(
    "--setting", "name", help="Setting to play.  [default: malt+mv with --team, else ma+mv]"
)
@pipeline_option()
@engine_options(**_TEAM_DEFAULTS)
@capacity_options()
@setting(
    "--grader",
    type=LazyChoice(_free_form_kinds),
    help="Kind of the answer, unless --choice is given.  [default: the team's, else numeric]",
)
@click.option(
    "--choice", "choices", multiple=True, metavar="TEXT", help="An answer choice (repeatable)."
)
@click.option(
    "--seed", **integer(-(2**63), 2**63 - 1), default=0, show_default=True, help="Random seed."
)
@click.option("--config", type=FILE, help="TOML file with any of these settings, and more.")
@json_option
def ask(
    question: str,
    config: Path | None,
    team: Path | None,
    name: str | None,
    choices: tuple[str, ...],
    seed: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Ask a team one question and print each turn.

    \b
    malt-data ask "What is 12 + 30?" --team team/team.toml
    malt-data ask "Which one barks?" --choice "a cat" --choice "a dog"
    malt-data ask "What is 12 + 30?" --config base.toml --pipeline refine
    """
    from malt_data.evaluation.ask import ask as ask_team
    from malt_data.evaluation.settings import find_settings
    from malt_data.schemas.spec import EvalSpec

    loaded = _read_team(team)
    spec = EvalSpec(**_with_team(loaded, read_config(config) | drop_unset(options)))
    names = [name or ("malt+mv" if team else "ma+mv")]
    chosen = find_settings(names, pipeline=spec.pipeline)[0]
    turns: list[dict[str, Any]] = []

    def on_turn(turn: "Turn") -> None:
        completion = turn.completion
        said = {"text": completion.text, "thinking": completion.thinking}
        turns.append({"pass": turn.pass_index, "role": turn.role, **said})
        if not as_json:
            head = click.style(f"{turn.pass_index + 1} {turn.role}", bold=True)
            click.echo(f"{head}\n{clean(completion.text)}\n")

    answer, votes = ask_team(
        question,
        spec,
        chosen,
        loaded.by_set() if loaded else {},
        choices=choices,
        seed=seed,
        on_turn=on_turn,
        note=note,
    )
    if as_json:
        print_json({"answer": answer, "votes": votes, "turns": turns})
    else:
        shown = ", ".join("none" if vote is None else vote for vote in votes)
        say(f"Answer: {'none' if answer is None else answer} (votes: {shown})")


@click.command(name="eval")
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
@setting(
    "--questions",
    shell_complete=completion.questions,
    help="Question source, as for build.  [default: embedded]",
)
@setting("--split", help="Split of the question source.  [default: test]")
@click.option(
    "--settings", default="sa,sa+mv,ma,ma+mv", show_default=True, help="Settings to compare."
)
@click.option("--settings-file", type=FILE, help="TOML file with custom settings.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    default=4,
    show_default=True,
    help="Number of seeds to repeat the evaluation with.",
)
@setting("--limit", type=int, help="Sample this many questions per seed.  [default: all]")
@team_option(
    "team.toml to evaluate (repeatable). Several teams get one folder each below --out, and the "
    "table averages over them.",
    multiple=True,
)
@pipeline_option()
@click.option("--allow-seen", is_flag=True, help="Allow questions that the team was trained on.")
@engine_options(**_TEAM_DEFAULTS)
@capacity_options()
@grader_option()
@click.option(
    "--config",
    type=FILE,
    help="TOML file with any of these settings, plus prompts, kind, fields, and the tables engine, "
    "sampling and chat_template.",
)
@click.option(
    "--out",
    type=NewFolder(),
    default=Path("results"),
    show_default=True,
    help="Folder of the results.",
)
@click.option(
    "--against", metavar="SETTING", help="Test the other settings for a difference from this one."
)
@click.option("--table", "join", is_flag=True, help="Print one table of the results in FOLDERS.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
@click.option("--figures", is_flag=True, help="Write OUT/figures/*.svg.")
@click.option("--dry-run", is_flag=True, help="Show the plan; sample and write nothing.")
@json_option
def evaluate(
    folders: tuple[Path, ...],
    settings: str,
    settings_file: Path | None,
    seeds: int,
    team: tuple[Path, ...],
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
    """Evaluate teams and baselines on a question set.

    Run the same command again to resume; add settings, seeds or questions to
    extend it.

    \b
    malt-data eval --settings sa,sa+mv,ma+mv --limit 50
    malt-data eval --settings sa+mv,malt+mv --team team/team.toml
    malt-data eval --settings malt+mv --team a/team.toml --team b/team.toml
    malt-data eval --settings sa,own --settings-file own.toml --against sa
    malt-data eval --config eval.toml
    malt-data eval --table results other-results --markdown
    """
    from malt_data.evaluation.results import open_results
    from malt_data.evaluation.settings import find_settings
    from malt_data.evaluation.tables import require_setting

    if join != bool(folders):
        raise click.UsageError("Pass --table and FOLDERS together: malt-data eval --table results")
    if join:
        if against or figures or dry_run:
            raise click.UsageError(
                "--table joins results: leave out --against, --figures, --dry-run."
            )
        _print_overview(folders, as_json, markdown)
        return
    names = [name.strip() for name in settings.split(",")]
    chosen = partial(find_settings, [name for name in names if name], settings_file)
    spec_settings = read_config(config) | drop_unset(options)
    plans = _plans(team, out, chosen, spec_settings, seeds=seeds, allow_seen=allow_seen)
    if against is not None:
        require_setting(against, list(dict.fromkeys(n for p in plans for n in p.names)))
    if dry_run:
        by_folder = {str(plan.out): plan.facts() for plan in plans}
        print_facts(by_folder if len(plans) > 1 else plans[0].facts(), as_json)
        return
    reports = _run(plans)
    results = [open_results(plan.out) for plan in plans]
    if figures:
        _write_figures(results)
    failed = {question: error for report in reports for question, error in report["failed"].items()}
    counts = {key: sum(report[key] for report in reports) for key in ("units", "played")}
    facts = {**counts, "failed": failed, "out": str(out)}
    _print_results(results, against, markdown, facts if as_json else None)
    if failed:
        question, error = next(iter(failed.items()))
        raise EvalError(
            f"{len(failed)} questions failed. The first, {question}: {error} "
            "Run the same command again to retry them."
        )


def _plans(
    teams: tuple[Path, ...],
    out: Path,
    chosen: "Callable[[Pipeline], list[Setting]]",
    spec_settings: dict[str, Any],
    *,
    seeds: int,
    allow_seen: bool,
) -> "list[Plan]":
    """Return one plan per team; settings without adapters are only in the first one.

    chosen: the settings to evaluate, in a pipeline.
    """
    from malt_data.evaluation.plan import plan_evaluation
    from malt_data.evaluation.teams import output_folders, require_comparable
    from malt_data.graders import require_named
    from malt_data.schemas.spec import EvalSpec
    from malt_data.storage.team import seen_by

    plans: list[Plan] = []
    for path, folder in zip(teams or (None,), output_folders(teams, out), strict=True):
        team = _read_team(path)
        if team and "grader" not in spec_settings:
            require_named(str(team.sampling.get("grader", "")), path)
        seen = seen_by(team) if team else {}
        if unknown := [adapter for adapter, ids in seen.items() if ids is None]:
            note(
                f"{len(unknown)} adapters (e.g. {unknown[0]}) do not record their training "
                "questions; they may have seen some of these."
            )
        spec = EvalSpec(**{"split": "test"} | _with_team(team, spec_settings))
        settings = chosen(spec.pipeline)
        plans.append(
            plan_evaluation(
                spec,
                [s for s in settings if s.adapters != "none"] if plans else settings,
                team.by_set() if team else {},
                folder,
                seeds=seeds,
                seen=frozenset[str]().union(*filter(None, seen.values())),
                allow_seen=allow_seen,
            )
        )
    require_comparable(plans)
    return plans


def _run(plans: "list[Plan]") -> list[dict[str, Any]]:
    """Run the plans one after another; return their reports."""
    from malt_data.commands.progress import Progress
    from malt_data.evaluation.evaluate import evaluate as run_evaluation

    note_refused(plans[0].refused)
    for text in plans[0].manifest["questions"]["notes"]:
        note(text)
    reports = []
    for plan in plans:
        with Progress("eval" if len(plans) == 1 else f"eval {plan.out.name}") as progress:
            told = progress.of("answers")
            reports.append(run_evaluation(plan, on_progress=told, note=progress.note))
    return reports


def _read_team(path: Path | None) -> "Team | None":
    if path is None:
        return None
    from malt_data.storage.team import read_team

    return read_team(path)


def _with_team(team: "Team | None", given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings `given`, over those of a team file, which may have some of builds too."""
    from malt_data.schemas.spec import EvalSpec

    if team is None:
        return given
    sampling = team.sampling_in(given.get("pipeline"))
    known = {name: sampling[name] for name in EvalSpec.model_fields if name in sampling}
    return {"model": team.model, **known, **given}


def _print_results(
    results: "Sequence[Results]", against: str | None, markdown: bool, facts: dict[str, Any] | None
) -> None:
    """Print the accuracy table, or, given `facts`, one JSON object of facts and rows."""
    from malt_data.evaluation.tables import accuracy_table
    from malt_data.report import tables

    rows = accuracy_table(results, against)
    if len({(row["questions"], row["seeds"]) for row in rows}) > 1:
        sizes = ", ".join(f"{r['setting']} {r['questions']} × {r['seeds']}" for r in rows)
        note(f"The settings cover different questions or seeds (questions × seeds): {sizes}.")
    if facts is not None:
        print_json({**facts, "settings": rows})
    elif markdown:
        click.echo(tables.markdown(rows))
    else:
        print_table(tables.readable(rows, wide=console().width > 90))


def _print_overview(folders: tuple[Path, ...], as_json: bool, markdown: bool) -> None:
    from malt_data.evaluation.results import open_results
    from malt_data.evaluation.tables import overview
    from malt_data.report import tables

    rows = overview([open_results(folder) for folder in folders])
    if as_json:
        print_json(rows)
        return
    if markdown:
        click.echo(tables.markdown_overview(rows))
    else:
        print_table(tables.readable_overview(rows, width=console().width))
    note(_CAPTION)


def _write_figures(results: "Sequence[Results]") -> None:
    from malt_data.report.figures import write_figures

    for evaluation in results:
        for path in write_figures(evaluation, evaluation.folder / "figures"):
            note(f"Wrote {path}.")
