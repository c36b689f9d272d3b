"""Recreate the tables and figures of evaluations from the data in their folders, without a model.

python docs/results/tables.py docs/results/steps/*/            # those of the folders
python docs/results/tables.py docs/results/natural/greater     # one table of all its teams
python docs/results/tables.py                                  # the overview in README.md
"""

import sys
from pathlib import Path
from typing import NamedTuple

import polars as pl

from malt_data import compare, open_results
from malt_data.evaluation.tables import accuracy_table, gather
from malt_data.report.figures import write_figures
from malt_data.report.tables import markdown

HERE = Path(__file__).parent
OVERVIEW = HERE / "README.md"
MARK = "<!-- written by tables.py -->\n"
SURE = 0.01
TEAMS = ("malt-both+mv", "malt-again+mv", "malt+mv", "malt")


class Contest(NamedTuple):
    """A team against the best of some baselines, with the questions and seeds of both.

    ours: the folders (a glob) that have the setting `team`, one per trained team. theirs: those
    that have the baselines.
    """

    name: str
    ours: str
    theirs: str
    baselines: tuple[str, ...]
    team: str = "malt+mv"


_UNTRAINED = ("sa", "sa+mv", "ma", "ma+mv")
_STAR = ("star-sa", "star-sa+mv", "star-ma", "star-ma+mv")
_LONG = ("star-sa-long", "star-sa-long+mv", "star-ma-long", "star-ma-long+mv")
_NATURAL = {
    "untrained": _UNTRAINED,
    "STaR": _STAR,
    "balanced STaR": tuple(name.replace("long", "balanced") for name in _LONG),
    "STaR as long": _LONG,
    "STaR, second round": tuple(name.replace("long", "again") for name in _LONG),
    "lone generator": ("malt-lone", "malt-lone+mv"),
    "one shared adapter": ("shared", "shared+mv"),
}


def _natural(name: str, folder: str, team: str = "malt+mv") -> tuple[Contest, ...]:
    """Return the contests of a task that nobody arranged."""
    return tuple(
        Contest(f"[{name}](natural/README.md): {what}", folder, folder, baselines, team)
        for what, baselines in _NATURAL.items()
    )


_ADD, _SUM = "[Two ways to add](steps/README.md)", "[Small sums](arithmetic/README.md)"
CONTESTS = (
    Contest(f"{_ADD}: untrained", "steps/cold", "steps/cold", _UNTRAINED),
    Contest(f"{_ADD}: STaR", "steps/cold", "steps/cold", _STAR),
    Contest(f"{_ADD}: STaR, second team", "steps/again", "steps/again", _STAR),
    Contest(f"{_ADD}: STaR, T = 1", "steps/warm", "steps/warm", _STAR),
    Contest(f"{_ADD}: STaR as long", "steps/cold", "steps/long", _LONG),
    Contest(f"{_ADD}: lone generator", "steps/cold", "steps/lone", ("malt-g", "malt-g+mv")),
    Contest(f"{_SUM}: untrained", "arithmetic/first", "arithmetic/first", _UNTRAINED),
    Contest(f"{_SUM}: STaR", "arithmetic/first", "arithmetic/first", _STAR),
    Contest(f"{_SUM}: STaR, round two", "arithmetic/second", "arithmetic/second", _STAR),
    *_natural("Which is larger, first look", "natural/larger/look"),
    *_natural("Which is larger", "natural/larger/[0-9]/results"),
    *_natural("Is it greater", "natural/greater/[0-9]/results", "malt-again+mv"),
    *_natural("Shopping", "natural/shopping/[0-9]/results", "malt-again+mv"),
    *_natural("Shopping, in the paper's order", "natural/shopping/[0-9]/results", "malt-later+mv"),
    *_natural("Shopping in bulk", "natural/bulk/[0-9]/results", "malt-both+mv"),
    Contest(
        "[Shopping in bulk](natural/README.md): lone agent, as many tokens",
        *("natural/bulk/[1-9]/results",) * 2,
        ("star-sa-again-11",),
        "malt-both+mv",
    ),
    *_natural("Shopping in bulk, as before", "natural/bulk/[0-9]/results", "malt-again+mv"),
    *_natural(
        "Shopping in bulk, in the paper's order", "natural/bulk/[0-9]/results", "malt-later+mv"
    ),
    *_natural("Is it divisible", "natural/divisible/[0-9]/results", "malt-again+mv"),
)


def overview() -> str:
    """Return the table of all contests, won and lost."""
    head = ["against", "questions × seeds × teams", "best of them", "its accuracy, %"]
    rows = [[*head, "the team's, %", "lead, points", "p", ""], ["---"] * 8]
    for contest in CONTESTS:
        ours = _predictions(contest.ours, (contest.team,))
        theirs = _predictions(contest.theirs, contest.baselines)
        if theirs.is_empty():  # these baselines were left out
            continue
        both = pl.concat([ours, theirs])
        means = dict(both.group_by("setting").agg(pl.col("correct").mean()).iter_rows())
        best = max((name for name in sorted(means) if name != contest.team), key=lambda n: means[n])
        found = compare(both, contest.team, best)
        lead, p = found["behind"], found["p"]
        outcome = "no difference shown" if p >= SURE else "won" if lead > 0 else "lost"
        size = " × ".join(str(ours[name].n_unique()) for name in ("question_id", "seed", "team"))
        numbers = (means[best] * 100, means[contest.team] * 100, lead * 100)
        shown = (f"{number:.1f}" for number in numbers)
        rows.append([contest.name, size, f"`{best}`", *shown, f"{p:.4f}", outcome])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _predictions(folders: str, settings: tuple[str, ...]) -> pl.DataFrame:
    teams = [open_results(folder) for folder in sorted(HERE.glob(folders))]
    if len(teams) == 1:  # which may be set beside baselines in another folder
        predictions = teams[0].predictions().with_columns(team=pl.lit(None, pl.String))
    else:
        predictions = gather(teams)
    return predictions.filter(pl.col("setting").is_in(settings))


def main(folders: list[Path]) -> None:
    for folder in folders:
        teams = [open_results(one) for one in sorted(folder.glob("[0-9]/results")) or [folder]]
        against = next((name for name in TEAMS if name in teams[0].settings), None)
        (folder / "table.md").write_text(markdown(accuracy_table(teams, against)) + "\n", "utf-8")
        if (folder / "figures").exists():
            write_figures(teams[0], folder / "figures")
    if not folders:
        before, _, rest = OVERVIEW.read_text("utf-8").partition(MARK)
        _, _, after = rest.partition(MARK)
        OVERVIEW.write_text(f"{before}{MARK}\n{overview()}\n{MARK}{after}", "utf-8")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
