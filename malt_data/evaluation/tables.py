"""The tables of evaluations: a row a setting, comparisons with one of them, several folders in one.

    accuracy_table(open_results("results"))[0]      # {"setting": "sa", "mean": 0.31, …}
    overview([open_results("results"), open_results("other")])   # a row a model and benchmark

Results of several teams, each in its own folder, make one table: a team is one more draw, beside
clusters of questions. The statistics themselves are in `statistics.py`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from malt_data.errors import EvalError
from malt_data.evaluation.results import Results
from malt_data.evaluation.statistics import holm, interval, paired_test

_RIGHT = pl.col("correct").fill_null(False).cast(pl.Float64)


def accuracy_table(
    results: Results | Sequence[Results], against: str | None = None
) -> list[dict[str, Any]]:
    """Return a row a setting, in the order of eval.json.

    results: of one evaluation, or of several teams on the same questions (`gather`).

    mean: share of right answers. std, std_population: deviation of the seeds' means with n - 1 and
    with n (the paper's), within a team where there are several; 0 for one seed. low, high: the
    95 % interval of the mean (`statistics.interval`). clusters: what that draws. tokens and
    seconds: of a question. teams, and where there are several: team_means, and std_teams and
    variance_teams with n - 1.
    against: a setting to compare every other one with; `behind` and `p` are what
    `compare(…, against, setting)` gives, None where the two have no question in common; `p_holm`
    is p corrected for all the comparisons of the table.
    Raises EvalError where `against` was not evaluated.
    """
    found = list(results) if isinstance(results, Sequence) else [results]
    names = list(dict.fromkeys(name for one in found for name in one.settings))
    if against is not None:
        require_setting(against, names)
    predictions = gather(found)
    rows = [
        _row(name, mine)
        for name in names
        if (mine := predictions.filter(pl.col("setting") == name)).height
    ]
    if against is not None:
        for row in rows:
            name = row["setting"]
            test = compare(predictions, against, name) if name != against else None
            row |= test or dict.fromkeys(("behind", "p"))
            row["p_holm"] = None
        tested = [row for row in rows if row["p"] is not None]
        for row, corrected in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_holm"] = corrected
    return rows


def require_setting(against: str, names: Sequence[str]) -> None:
    """Raise EvalError where `against` is none of the settings `names`."""
    if against not in names:
        raise EvalError(f"{against} was not evaluated, only {', '.join(names)}.")


def gather(results: Sequence[Results]) -> pl.DataFrame:
    """Return the predictions of several folders, with the `team` that each rests on.

    team: the folder in which that team was met first; null in settings without adapters. What two
    folders both hold (no team, or the same one, on a question and seed) counts once.
    """
    teams: dict[str, str] = {}
    settings: dict[str, Any] = {}
    frames = []
    for one in results:
        for setting in one.manifest["settings"]:
            if settings.setdefault(setting["name"], setting) != setting:
                raise EvalError(
                    f"{one.folder} has another setting {setting['name']} than "
                    f"{results[0].folder}: make a table of each."
                )
        trained = [s["name"] for s in one.manifest["settings"] if s["adapters"] != "none"]
        known = sorted(one.manifest.get("weights", {}).values()) or one.manifest["team"]
        team = teams.setdefault(json.dumps(known, sort_keys=True), str(one.folder))
        named = pl.when(pl.col("setting").is_in(trained)).then(pl.lit(team))
        frames.append(one.predictions().with_columns(team=named.otherwise(None)))
    keys = ["setting", "team", "seed", "question_id"]
    return pl.concat(frames).unique(keys, keep="first", maintain_order=True)


def _row(name: str, mine: pl.DataFrame) -> dict[str, Any]:
    right, asked = _cells(mine.with_columns(right=_RIGHT))
    low, high = interval(right, asked)
    row = {
        "setting": name,
        "questions": mine["question_id"].n_unique(),
        "clusters": right.shape[1],
        "seeds": mine["seed"].n_unique(),
        "mean": mine.select(_RIGHT.mean()).item(),
        "std": _over_seeds(mine, ddof=1),
        "std_population": _over_seeds(mine, ddof=0),
        "low": low,
        "high": high,
        "unanswered": mine["answer"].null_count() / mine.height,
        "prompt_tokens": mine["prompt_tokens"].mean(),
        "completion_tokens": mine["completion_tokens"].mean(),
        "seconds": mine["seconds"].mean(),
        "teams": len(right),
    }
    if len(right) > 1:
        by_team = mine.group_by("team").agg(right=_RIGHT.mean()).sort("team")
        row |= {
            "team_means": dict(by_team.iter_rows()),
            "std_teams": by_team["right"].std(),
            "variance_teams": by_team["right"].var(),
        }
    return row


def _over_seeds(mine: pl.DataFrame, ddof: int) -> float:
    """Return the deviation of the seeds' means: within a team, over those of several seeds."""
    by_seed = mine.group_by("team", "seed").agg(right=_RIGHT.mean()).sort("team", "seed")
    spread = by_seed.group_by("team", maintain_order=True).agg(
        seeds=pl.len(), variance=pl.col("right").var(ddof)
    )
    variance = spread.filter(pl.col("seeds") > 1)["variance"].mean()
    return 0.0 if variance is None else float(variance) ** 0.5  # type: ignore[arg-type]


def compare(
    predictions: pl.DataFrame, one: str, other: str, seed: int = 0
) -> dict[str, float] | None:
    """Return how much better `one` is than `other` where both were asked, and p; None if nowhere.

    predictions: of `Results.predictions()` or `gather`: setting, seed, question_id, correct, and
    where there are any `cluster` (null: the question itself) and `team` (null: none).

    behind: the difference of the shares of right answers, over the questions and seeds of both;
    of two settings with teams, over the same team. p: two-sided, not corrected for other
    comparisons (`statistics.paired_test`). A question's seeds and a cluster's questions stay
    together.
    """
    keys = ["seed", "question_id"]
    kept = [name for name in ("cluster", "team") if name in predictions.columns]
    left, right = (
        predictions.filter(pl.col("setting") == name).select(*keys, *kept, _RIGHT.alias("right"))
        for name in (one, other)
    )
    with_teams = "team" in kept and all(side["team"].null_count() == 0 for side in (left, right))
    paired = left.join(right, on=[*keys, "team"] if with_teams else keys, suffix="_other")
    if not paired.height:
        return None
    if "team" in kept and not with_teams:  # the bare model has none: every team is paired with it
        paired = paired.with_columns(team=pl.coalesce("team", "team_other"))
    sums, asked = _cells(paired.with_columns(right=pl.col("right") - pl.col("right_other")))
    return {
        "behind": float(sums.sum() / paired.height),
        "p": paired_test(sums, asked, seed),
    }


def _cells(units: pl.DataFrame) -> tuple[Any, Any]:
    """Return the sum of `right` and the number of units, a row a team and a column a cluster."""
    named = {name: pl.col(name) if name in units.columns else pl.lit(None, pl.String)
             for name in ("cluster", "team")}  # fmt: skip
    grouped = units.group_by(
        cluster=pl.coalesce(named["cluster"], "question_id"), team=named["team"].fill_null("")
    ).agg(pl.sum("right"), asked=pl.len())
    places = [grouped[name].rank("dense").to_numpy() - 1 for name in ("team", "cluster")]
    sums, asked = np.zeros((2, *(int(place.max()) + 1 for place in places)))
    sums[*places] = grouped["right"].to_numpy()
    asked[*places] = grouped["asked"].to_numpy()
    return sums, asked


# --- several folders ------------------------------------------------------------------------------


def overview(results: Sequence[Results]) -> list[dict[str, Any]]:
    """Return a row a model and benchmark (Tables 1 to 3 of the paper), from several folders.

    Folders that asked alike (the same model, questions, temperature, prompts, …) make one row;
    `settings` holds what `table` gives of them, by name. `differs` names what else tells rows of
    one model and benchmark apart.
    """
    groups: dict[str, list[Results]] = {}
    for one in results:
        groups.setdefault(json.dumps(_asked(one), sort_keys=True), []).append(one)
    rows = []
    for key, folders in groups.items():
        spec = json.loads(key)
        others = [o for o in map(json.loads, groups) if _named(o) == _named(spec) and o != spec]
        differs = sorted({name for o in others for name in spec if o.get(name) != spec[name]})
        rows.append(
            {
                "model": spec["model"],
                "benchmark": _named(spec)[1],
                "differs": {n: "other" if isinstance(spec[n], dict) else spec[n] for n in differs},
                "folders": [str(one.folder) for one in folders],
                "settings": {row["setting"]: row for row in accuracy_table(folders)},
            }
        )
    return rows


def _asked(one: Results) -> dict[str, Any]:
    """Return what an answer depends on, but for the settings and the team."""
    spec: dict[str, Any] = dict(one.manifest["spec"])
    source = Path(spec["questions"])
    return spec | {"questions": source.name if source.suffix else spec["questions"]}


def _named(spec: dict[str, Any]) -> tuple[str, str]:
    return spec["model"], f"{spec['questions']} {spec['split']}"
