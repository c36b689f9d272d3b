"""Asking a team: `ask` one question, `eval` it against baselines."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from malt_data.commands.options import (
    FILE,
    LateChoice,
    NewFolder,
    concurrency_option,
    engine_options,
    given,
    grader_option,
    json_option,
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
    from malt_data.schemas.team import Team

_OVERVIEW = "Accuracy, % ± its deviation over seeds, or over teams where there are several (n − 1)."


def _free_form_kinds() -> tuple[str, ...]:
    from malt_data.graders import KINDS

    return tuple(name for name, kind in KINDS.items() if not kind.lettered)


@click.command()
@click.argument("question")
@team_option("team.toml; without one the base model plays all roles.")
@click.option("--setting", "name", help="[default: malt+mv with a team, else ma+mv]")
@engine_options(temperature="the team's, or 0.3", tokens="the team's, or 1024; embedded: 32")
@setting(
    "--grader",
    type=LateChoice(_free_form_kinds),
    help="Kind of a free-form question.  [default: the team's, or numeric]",
)
@click.option(
    "--choice",
    "choices",
    multiple=True,
    metavar="TEXT",
    help="An answer to choose from; give it once for each.",
)
@click.option(
    "--seed",
    type=click.IntRange(-(2**63), 2**63 - 1),
    default=0,
    show_default=True,
    help="Seed of the passes.",
)
@json_option
def ask(
    question: str,
    team: Path | None,
    name: str | None,
    choices: tuple[str, ...],
    seed: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Let a team answer one question, turn by turn.

    \b
    malt-data ask "What is 12 + 30?" --team team/team.toml
    malt-data ask "Which one barks?" --choice "a cat" --choice "a dog"
    """
    from malt_data.evaluation.ask import ask as ask_team
    from malt_data.evaluation.settings import find_settings
    from malt_data.schemas.spec import EvalSpec

    found = _read_team(team)
    spec = EvalSpec(**_settings_of(found) | given(options))
    chosen = find_settings([name or ("malt+mv" if team else "ma+mv")])[0]
    turns: list[dict[str, Any]] = []

    def on_turn(turn: "Turn") -> None:
        turns.append({"pass": turn.passed, "role": turn.role, "text": turn.completion.text})
        if not as_json:
            head = click.style(f"{turn.passed + 1} {turn.role}", bold=True)
            click.echo(f"{head}\n{clean(turn.completion.text)}\n")

    answer, votes = ask_team(
        question,
        spec,
        chosen,
        found.by_set() if found else {},
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
@setting("--questions", help="As for build.  [default: embedded]")
@setting("--split", help="Split of the source.  [default: test]")
@click.option("--settings", default="sa,sa+mv,ma,ma+mv", show_default=True, help="What to compare.")
@click.option("--settings-file", type=FILE, help="TOML file with settings of your own.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=4, show_default=True, help="Runs.")
@setting("--limit", type=int, help="Questions a seed, a random sample by it.  [default: all]")
@team_option(
    "team.toml: model, adapters, and what they were trained on. Several: each is evaluated in a "
    "folder below --out, and the table is over all of them.",
    multiple=True,
)
@click.option("--allow-seen", is_flag=True, help="Ask questions that the team was trained on.")
@engine_options(temperature="the team's, or 0.3", tokens="the team's, or 1024; embedded: 32")
@concurrency_option
@grader_option()
@click.option(
    "--config", type=FILE, help="TOML file with any of these settings, and prompts, kind, fields."
)
@click.option(
    "--out",
    type=NewFolder(),
    default=Path("results"),
    show_default=True,
    help="Folder of the results.",
)
@click.option("--against", metavar="SETTING", help="Test the others against this setting.")
@click.option("--table", "join", is_flag=True, help="Only print one table of FOLDERS' results.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
@click.option("--figures", is_flag=True, help="Write OUT/figures/*.svg.")
@click.option("--dry-run", is_flag=True, help="Show what would be asked; sample nothing.")
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
    """Evaluate a team against baselines.

    Run it again to complete or extend it.

    \b
    malt-data eval --settings sa,sa+mv,ma+mv --limit 50
    malt-data eval --settings sa+mv,malt+mv --team team/team.toml
    malt-data eval --settings malt+mv --team a/team.toml --team b/team.toml
    malt-data eval --table results other-results --markdown
    """
    from malt_data.commands.progress import Steps
    from malt_data.evaluation.evaluate import evaluate as run_evaluation
    from malt_data.evaluation.results import open_results
    from malt_data.evaluation.settings import find_settings
    from malt_data.evaluation.tables import require_setting

    if join != bool(folders):
        raise click.UsageError("--table and FOLDERS go together: malt-data eval --table results")
    if join:
        _print_overview(folders, as_json, markdown)
        return
    named = [name.strip() for name in settings.split(",")]
    chosen = find_settings([name for name in named if name], settings_file)
    asked = read_config(config) | given(options)
    plans = _plans(team, out, chosen, asked, seeds=seeds, allow_seen=allow_seen)
    if against is not None:
        require_setting(against, list(dict.fromkeys(n for p in plans for n in p.names)))
    if dry_run:
        facts = {str(planned.out): planned.facts() for planned in plans}
        print_facts(facts if len(plans) > 1 else plans[0].facts(), as_json)
        return
    note_refused(plans[0].refused)
    for text in plans[0].manifest["questions"]["notes"]:
        note(text)
    reports = []
    for planned in plans:
        with Steps("eval" if len(plans) == 1 else f"eval {planned.out.name}") as steps:
            reports.append(run_evaluation(planned, on_progress=steps.update, note=steps.note))
    opened = [open_results(planned.out) for planned in plans]
    if figures:
        _write_figures(opened)
    failed = {name: said for report in reports for name, said in report["failed"].items()}
    counts = {key: sum(report[key] for report in reports) for key in ("units", "played")}
    _print_results(
        opened,
        against,
        markdown,
        {**counts, "failed": failed, "out": str(out)} if as_json else None,
    )
    if failed:
        name, said = next(iter(failed.items()))
        raise EvalError(
            f"{len(failed)} questions failed, the first ({name}) with: {said} "
            "Run the same command again to complete them."
        )


def _plans(
    teams: tuple[Path, ...],
    out: Path,
    chosen: "list[Setting]",
    asked: dict[str, Any],
    *,
    seeds: int,
    allow_seen: bool,
) -> "list[Plan]":
    """Return one plan a team; what needs no team is asked once."""
    from malt_data.evaluation.plan import plan_evaluation
    from malt_data.evaluation.teams import places, require_alike
    from malt_data.schemas.spec import EvalSpec
    from malt_data.trainers.questions import seen_by

    plans: list[Plan] = []
    for path, place in zip(teams or (None,), places(teams, out), strict=True):
        team = _read_team(path)
        records = seen_by(team) if team else {}
        if silent := [name for name, ids in records.items() if ids is None]:
            note(
                f"{len(silent)} adapters, {silent[0]} among them, do not say what they were "
                "trained on: whether they have seen these questions is not known."
            )
        plans.append(
            plan_evaluation(
                EvalSpec(**{"split": "test"} | _settings_of(team) | asked),
                [s for s in chosen if s.adapters != "none"] if plans else chosen,
                team.by_set() if team else {},
                place,
                seeds=seeds,
                seen=frozenset[str]().union(*filter(None, records.values())),
                allow_seen=allow_seen,
            )
        )
    require_alike(plans)
    return plans


def _read_team(path: Path | None) -> "Team | None":
    if path is None:
        return None
    from malt_data.trainers.team import read_team

    return read_team(path)


def _settings_of(team: "Team | None") -> dict[str, Any]:
    return {} if team is None else {"model": team.model, **team.sampling}


def _print_results(
    opened: "Sequence[Results]", against: str | None, markdown: bool, facts: dict[str, Any] | None
) -> None:
    """Print the table; as JSON beside `facts` where there are any."""
    from malt_data.evaluation.tables import accuracy_table
    from malt_data.report import tables

    rows = accuracy_table(opened, against)
    if len({(row["questions"], row["seeds"]) for row in rows}) > 1:
        differing = ", ".join(f"{r['setting']} {r['questions']} × {r['seeds']}" for r in rows)
        note(f"Not all settings were asked the same (questions × seeds): {differing}.")
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
    note(_OVERVIEW)


def _write_figures(opened: "Sequence[Results]") -> None:
    from malt_data.report.figures import write_figures

    for one in opened:
        for path in write_figures(one, one.folder / "figures"):
            note(f"Wrote {path}.")
