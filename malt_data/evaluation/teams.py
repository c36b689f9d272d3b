"""Evaluate several teams: one output folder each, and checks that they are comparable.

>>> teams = [Path("one/team.toml"), Path("two/team.toml")]
>>> [str(folder) for folder in output_folders(teams, Path("out"))]
['out/one', 'out/two']
"""

from collections.abc import Sequence
from pathlib import Path

from malt_data.errors import EvalError
from malt_data.evaluation.plan import Plan
from malt_data.schemas import layout


def output_folders(teams: Sequence[Path], out: Path) -> list[Path]:
    """Return the folder of each team's results: `out` itself if there are fewer than two teams.

    Folders of several teams are named after the paths as given (`runs/a/team.toml` → `out`/runs-a),
    so that the same command resumes. Raises EvalError if two teams would share a folder or `out`
    already contains an evaluation.
    """
    if len(teams) < 2:
        return [out]
    if (out / layout.RESULTS).exists():
        raise EvalError(f"{out} contains the results of one team. Choose a new folder: --out NAME")
    folders: dict[Path, Path] = {}
    for team in teams:
        parts = [part for part in team.with_suffix("").parts if part.strip("./")]
        name = "-".join(parts[:-1] if len(parts) > 1 and parts[-1] == "team" else parts)
        if (other := folders.setdefault(out / name, team)) != team:
            raise EvalError(
                f"{other} and {team} would share the folder {out / name}. Rename one of them."
            )
    if len(folders) < len(teams):
        raise EvalError("The same --team was given twice. Pass each team once.")
    return list(folders)


def require_comparable(plans: Sequence[Plan]) -> None:
    """Raise EvalError unless several teams get the same questions in the same way."""
    if len(plans) < 2:
        return
    if not all(plan.settings for plan in plans):
        raise EvalError(
            "None of the --settings uses adapters, so there is nothing to compare between teams. "
            "Add one (malt, malt+mv, …), or leave out --team."
        )
    first = plans[0]
    for other in plans[1:]:
        for key, value in first.manifest["spec"].items():
            if other.manifest["spec"][key] != value:
                raise EvalError(
                    f"The teams are not comparable: {key} differs between {first.out} and "
                    f"{other.out}. Pass it as an option, or evaluate the teams separately."
                )
