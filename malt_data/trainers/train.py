"""Train one role's adapter in one stage, or the whole team.

train("all", "me/trees@v1", "team")
train("verifier", "forest", "verifier_dpo", stage="dpo", adapter="verifier_sft")
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from malt_data.errors import SpecError
from malt_data.trainers.dpo import train_dpo
from malt_data.trainers.recipe import STAGES, Recipe, Stage
from malt_data.trainers.sft import train_sft
from malt_data.trainers.team import train_team
from malt_data.trainers.training import OnProgress


def train(
    role: str,
    dataset: str | Path,
    out: str | Path,
    *,
    stage: Stage | None = None,
    adapter: str | Path | None = None,
    model: str | None = None,
    other_model: bool = False,
    recipe: Recipe | None = None,
    max_steps: int | None = None,
    on_progress: OnProgress = lambda done, total: None,
    note: Callable[[str], None] = lambda _: None,
) -> Mapping[str, dict[str, Any]]:
    """Train into `out`; return the record of each run by `<role>_<stage>`.

    role: "all" runs the whole recipe and writes a team.toml. dataset: `user/name[@revision]`, a
    forest, or the folder of an export. stage: "sft" (the default) or "dpo"; with "all", "sft" skips
    DPO. adapter: where to start; required for DPO. model: None takes the one that sampled the data;
    any other needs `other_model`. recipe: see `read_recipe`. on_progress: called with the steps
    done and in total. note: called with messages for the user.
    Raises TrainError, SpecError or HubError before the first step if anything is unsuitable.
    """
    start = None if adapter is None else str(adapter)
    options: dict[str, Any] = {
        "model": model,
        "other_model": other_model,
        "recipe": recipe,
        "max_steps": max_steps,
        "on_progress": on_progress,
        "note": note,
    }
    if stage not in (None, *STAGES):
        raise SpecError(f"Unknown stage {stage!r}. Choose from {', '.join(STAGES)}.")
    if role == "all":
        if stage == "dpo" or start is not None:
            raise SpecError("Training a whole team starts with SFT: leave out stage and adapter.")
        return train_team(str(dataset), out, stage=stage, **options)
    if stage == "dpo":
        if start is None:
            raise SpecError("DPO starts from an SFT adapter: pass adapter.")
        return {f"{role}_dpo": train_dpo(role, str(dataset), out, adapter=start, **options)}
    return {f"{role}_sft": train_sft(role, str(dataset), out, adapter=start, **options)}
