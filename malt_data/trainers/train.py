"""Train one role's adapter in one stage, or the whole team.

train("all", "me/trees@v1", "team")
train("verifier", "forest", "verifier_dpo", stage="dpo", adapter="verifier_sft")
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from malt_data.errors import SpecError
from malt_data.trainers.dpo import train_dpo
from malt_data.trainers.recipe import Stage
from malt_data.trainers.sft import train_sft
from malt_data.trainers.team import train_team


def train(
    role: str,
    dataset: str,
    out: str | Path,
    *,
    stage: Stage | None = None,
    adapter: str | None = None,
    **options: Any,
) -> Mapping[str, dict[str, Any]]:
    """Train into `out`; return the record of each run by `<role>_<stage>`.

    role: "all" runs the whole recipe and writes a team.toml. stage: "sft" (the default) or "dpo";
    with "all", "sft" skips DPO. adapter: where to start; required for DPO. options: those of
    `train_sft`, `train_dpo` and `train_team`. Raises their errors, and SpecError for an invalid
    combination.
    """
    if role == "all":
        if stage not in (None, "sft") or adapter is not None:
            raise SpecError("Training a whole team starts with SFT: leave out stage and adapter.")
        return train_team(dataset, out, stage=stage, **options)
    if stage == "dpo":
        if adapter is None:
            raise SpecError("DPO starts from an SFT adapter: pass adapter.")
        return {f"{role}_dpo": train_dpo(role, dataset, out, adapter=adapter, **options)}
    return {f"{role}_sft": train_sft(role, dataset, out, adapter=adapter, **options)}
