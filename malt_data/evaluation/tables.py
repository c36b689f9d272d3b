"""Tables of evaluations: accuracy and comparisons per setting, and overviews of several folders.

    accuracy_table(open_results("results"))[0]      # {"setting": "sa", "mean": 0.31, …}
    overview([open_results("results"), open_results("other")])   # one row per model and benchmark

Results of several teams, each in its own folder, give one table in which teams are a second
sampling unit besides clusters of questions. The statistics are in `statistics.py`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from malt_data.errors import EvalError
from malt_data.evaluation.parts import team_of
from malt_data.evaluation.results import Results
from malt_data.evaluation.statistics import holm, interval, paired_test

_RIGHT = pl.col("correct").fill_null(False).cast(pl.Float64)


def accuracy_table(
    results: Results | Sequence[Results], against: str | None = None
) -> list[dict[str, Any]]:
    """Return one row per setting, in the order of eval.json.

    results: one evaluation, or those of several teams on the same questions (`gather`).

    mean: share of right answers. std, std_population: standard deviation of the seeds' means with
    n - 1 and with n (as in the paper), within teams if there are several; 0 for one seed. low,
    high: 95 % interval of the mean (`statistics.interval`). clusters: number of clusters in it.
    Tokens and seconds are per question. teams: number of teams; if there are several, also
    team_means, and std_teams and variance_teams with n - 1.
    against: a setting to compare every other one with. `behind` and `p` are the result of
    `compare(…, against, setting)`, None if the two have no question in common; `p_holm` is p
    corrected for all comparisons in the table.
    Raises EvalError if `against` was not evaluated.
    """
    evaluations = list(results) if isinstance(results, Sequence) else [results]
    names = list(dict.fromkeys(name for item in evaluations for name in item.settings))
    if against is not None:
        require_setting(against, names)
    predictions = gather(evaluations)
    rows = [
        _row(name, units)
        for name in names
        if (units := predictions.filter(pl.col("setting") == name)).height
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
    """Raise EvalError unless `against` is one of the settings `names`."""
    if against not in names:
        raise EvalError(f"{against} was not evaluated. Choose from {', '.join(names)}.")


def gather(results: Sequence[Results]) -> pl.DataFrame:
    """Return the predictions of several folders, with a column `team`.

    team: the first folder with that team; null in settings without adapters. Predictions that two
    folders have in common (same or no team, same question and seed) count once.
    """
    teams: dict[str, str] = {}
    settings: dict[str, Any] = {}
    frames = []
    for item in results:
        for setting in item.manifest["settings"]:
            if settings.setdefault(setting["name"], setting) != setting:
                raise EvalError(
                    f"Setting {setting['name']} differs between {results[0].folder} and "
                    f"{item.folder}. Print a table for each of them."
                )
        trained = [s["name"] for s in item.manifest["settings"] if s["adapters"] != "none"]
        sets = team_of(item.manifest)
        identity = sets.get("team", sets)  # baselines may be trained later
        team = teams.setdefault(json.dumps(identity, sort_keys=True), str(item.folder))
        column = pl.when(pl.col("setting").is_in(trained)).then(pl.lit(team)).otherwise(None)
        frames.append(item.predictions().with_columns(team=column))
    keys = ["setting", "team", "seed", "question_id"]
    return pl.concat(frames).unique(keys, keep="first", maintain_order=True)


def _row(name: str, units: pl.DataFrame) -> dict[str, Any]:
    right, asked = _cells(units.with_columns(right=_RIGHT))
    low, high = interval(right, asked)
    row = {
        "setting": name,
        "questions": units["question_id"].n_unique(),
        "clusters": right.shape[1],
        "seeds": units["seed"].n_unique(),
        "mean": units.select(_RIGHT.mean()).item(),
        "std": _over_seeds(units, ddof=1),
        "std_population": _over_seeds(units, ddof=0),
        "low": low,
        "high": high,
        "unanswered": units["answer"].null_count() / units.height,
        "prompt_tokens": units["prompt_tokens"].mean(),
        "completion_tokens": units["completion_tokens"].mean(),
        "seconds": units["seconds"].mean(),
        "teams": len(right),
    }
    if len(right) > 1:
        by_team = units.group_by("team").agg(right=_RIGHT.mean()).sort("team")
        row |= {
            "team_means": dict(by_team.iter_rows()),
            "std_teams": by_team["right"].std(),
            "variance_teams": by_team["right"].var(),
        }
    return row


def _over_seeds(units: pl.DataFrame, ddof: int) -> float:
    """Return the standard deviation of the seeds' means, within teams with several seeds."""
    by_seed = units.group_by("team", "seed").agg(right=_RIGHT.mean()).sort("team", "seed")
    spread = by_seed.group_by("team", maintain_order=True).agg(
        seeds=pl.len(), variance=pl.col("right").var(ddof)
    )
    variance = spread.filter(pl.col("seeds") > 1)["variance"].mean()
    return 0.0 if variance is None else float(variance) ** 0.5  # type: ignore[arg-type]


def compare(
    predictions: pl.DataFrame, setting: str, other: str, seed: int = 0
) -> dict[str, float] | None:
    """Return by how much `setting` is better than `other`, and p; None if no question is shared.

    predictions: from `Results.predictions()` or `gather`, with the columns setting, seed,
    question_id, correct, and optionally `cluster` (null: the question itself) and `team` (null:
    none).

    behind: the difference in the share of right answers on shared questions and seeds, and, for two
    settings with teams, within the same team. p: two-sided, not corrected for other comparisons
    (`statistics.paired_test`), clustered by question and cluster.
    """
    keys = ["seed", "question_id"]
    kept = [name for name in ("cluster", "team") if name in predictions.columns]
    left, right = (
        predictions.filter(pl.col("setting") == name).select(*keys, *kept, _RIGHT.alias("right"))
        for name in (setting, other)
    )
    with_teams = "team" in kept and all(side["team"].null_count() == 0 for side in (left, right))
    paired = left.join(right, on=[*keys, "team"] if with_teams else keys, suffix="_other")
    if not paired.height:
        return None
    if "team" in kept and not with_teams:  # pair every team with the base model
        paired = paired.with_columns(team=pl.coalesce("team", "team_other"))
    sums, asked = _cells(paired.with_columns(right=pl.col("right") - pl.col("right_other")))
    return {
        "behind": float(sums.sum() / paired.height),
        "p": paired_test(sums, asked, seed),
    }


def _cells(units: pl.DataFrame) -> tuple[Any, Any]:
    """Return the sum of `right` and the number of units, by team (rows) and cluster (columns)."""
    columns = {name: pl.col(name) if name in units.columns else pl.lit(None, pl.String)
             for name in ("cluster", "team")}  # fmt: skip
    grouped = units.group_by(
        cluster=pl.coalesce(columns["cluster"], "question_id"), team=columns["team"].fill_null("")
    ).agg(pl.sum("right"), asked=pl.len())
    indices = [grouped[name].rank("dense").to_numpy() - 1 for name in ("team", "cluster")]
    sums, asked = np.zeros((2, *(int(index.max()) + 1 for index in indices)))
    sums[*indices] = grouped["right"].to_numpy()
    asked[*indices] = grouped["asked"].to_numpy()
    return sums, asked


# --- several folders ------------------------------------------------------------------------------


def overview(results: Sequence[Results]) -> list[dict[str, Any]]:
    """Return one row per model and benchmark (Tables 1 to 3 of the paper) from several folders.

    Folders with the same spec (model, questions, temperature, prompts, …) share a row. `settings`
    has the rows of `accuracy_table` by name. `differs` has the spec settings in which rows with the
    same model and benchmark differ.
    """
    groups: dict[str, list[Results]] = {}
    for item in results:
        groups.setdefault(json.dumps(_spec(item), sort_keys=True), []).append(item)
    rows = []
    for key, folders in groups.items():
        spec = json.loads(key)
        others = [o for o in map(json.loads, groups) if _title(o) == _title(spec) and o != spec]
        differs = sorted({name for o in others for name in spec if o.get(name) != spec[name]})
        rows.append(
            {
                "model": spec["model"],
                "benchmark": _title(spec)[1],
                "differs": {n: "other" if isinstance(spec[n], dict) else spec[n] for n in differs},
                "folders": [str(item.folder) for item in folders],
                "settings": {row["setting"]: row for row in accuracy_table(folders)},
            }
        )
    return rows


def _spec(results: Results) -> dict[str, Any]:
    """Return the spec of an evaluation, with the path of a question file reduced to its name."""
    spec: dict[str, Any] = dict(results.manifest["spec"])
    source = Path(spec["questions"])
    return spec | {"questions": source.name if source.suffix else spec["questions"]}


def _title(spec: dict[str, Any]) -> tuple[str, str]:
    """Return the model and the benchmark."""
    return spec["model"], f"{spec['questions']} {spec['split']}"
