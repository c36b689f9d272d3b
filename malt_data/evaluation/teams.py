"""Where the results of several teams go: each into a folder of its own, below one.

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
    """Return the folder of each team's results: `out` itself for one team or none.

    Of several, each is named by its file as it was written, so that the same command goes on where
    it stopped: `runs/a/team.toml` has `out`/runs-a. Raises EvalError where two would share a
    folder, or `out` is one evaluation's already.
    """
    if len(teams) < 2:
        return [out]
    if (out / layout.RESULTS).exists():
        raise EvalError(f"{out} holds the evaluation of one team. Choose a new folder: --out NAME")
    found: dict[Path, Path] = {}
    for team in teams:
        parts = [part for part in team.with_suffix("").parts if part.strip("./")]
        named = "-".join(parts[:-1] if len(parts) > 1 and parts[-1] == "team" else parts)
        if (other := found.setdefault(out / named, team)) != team:
            raise EvalError(f"{other} and {team} would share the folder {out / named}.")
    if len(found) < len(teams):
        raise EvalError("A team is named twice: pass each with --team once.")
    return list(found)


def require_comparable(plans: Sequence[Plan]) -> None:
    """Raise EvalError where several teams would not be asked alike, or not asked at all."""
    if len(plans) < 2:
        return
    if not all(planned.settings for planned in plans):
        raise EvalError(
            "Of several teams, only settings with adapters are asked more than once, and none is "
            "named: add one to --settings (malt, malt+mv, …), or omit --team."
        )
    first = plans[0]
    for other in plans[1:]:
        for key, value in first.manifest["spec"].items():
            if other.manifest["spec"][key] != value:
                raise EvalError(
                    f"The teams would be asked differently: another {key} for {other.out} than for "
                    f"{first.out}. Pass it as an option, or evaluate them apart."
                )
