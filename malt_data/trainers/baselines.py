"""Baselines on equal terms: what the same optimiser steps yield without MALT's roles or its DPO.

    sft_long   every role's SFT adapter, trained by SFT for as many further steps as its DPO had
    lone       a generator with DPO on its own pairs, from its SFT adapter, and no one beside it
    shared     one adapter for all roles: SFT on their rows together, from a fresh LoRA, with as
               many steps as the roles' SFT stages had together

Equal terms are equal numbers of optimiser steps, under the same settings; a stage of its own has
a learning-rate schedule of its own, as DPO has. Settings that use them: `star-sa-long`,
`star-ma-long`, `malt-lone`, `shared`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from malt_data.errors import MaltError
from malt_data.schemas.roles import ROLES
from malt_data.storage.documents import read_json
from malt_data.trainers.data import SHARED
from malt_data.trainers.dpo import train_dpo
from malt_data.trainers.sft import train_sft
from malt_data.trainers.training import PLAN

LONE = "generator"
"""The role that answers alone in the baseline `lone`."""

Records = dict[str, dict[str, Any]]
Tables = dict[str, dict[str, str]]


def train_baselines(
    source: str,
    out: Path,
    team: Mapping[str, dict[str, Any]],
    *,
    note: Callable[[str], None],
    **options: Any,
) -> tuple[Records, Tables]:
    """Train the baselines of a finished team into `out`, a folder each; pass over finished ones.

    team: the records of the team's stages by folder. Returns the baselines' records by folder, and
    `{"sft_long": {role: folder}, …}`. Without pairs of the generator there is no `lone`, and a
    note says so. Raises what `train_sft` and `train_dpo` raise.
    """
    options["note"] = note
    lone = f"{LONE}_dpo"
    records: Records = {}
    if lone not in team:
        note(f"Baseline {lone}")
        if record := _lone(source, out, options):
            records[lone] = record
    tables: Tables = {"lone": {LONE: lone} if {lone} & {*team, *records} else {}}

    def sft(role: str, key: str, steps: int, adapter: str | None = None) -> None:
        steps = _begun_with(out / key, steps, note)
        note(f"Baseline {key}: {steps} steps")
        records[key] = train_sft(
            role, source, out / key, adapter=adapter, **options | {"max_steps": steps}
        )

    dpo = {name: record["steps"] for name, record in {**team, **records}.items() if "_dpo" in name}
    for role in ROLES:
        # A generator without DPO has no steps to equal: it gets the most that any role had.
        steps = dpo.get(f"{role}_dpo", max(dpo.values()))
        sft(role, f"{role}_sft_long", steps, str(out / f"{role}_sft"))
    sft(SHARED, f"{SHARED}_sft", sum(team[f"{role}_sft"]["steps"] for role in ROLES))
    tables["sft_long"] = {role: f"{role}_sft_long" for role in ROLES}
    tables["shared"] = dict.fromkeys(ROLES, f"{SHARED}_sft")
    return records, tables


def _lone(source: str, out: Path, options: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record of the lone generator's DPO; None, and a note, where it has no rows."""
    role = LONE
    folder = out / f"{role}_dpo"
    try:
        return train_dpo(role, source, folder, adapter=str(out / f"{role}_sft"), **options)
    except MaltError as error:
        if folder.exists():  # it was begun
            raise
        # A baseline that cannot begin must not fail a team that is complete.
        options["note"](
            f"The baseline malt-lone is left out: {error} Then run the same command again."
        )
        return None


def _begun_with(folder: Path, steps: int, note: Callable[[str], None]) -> int:
    """Return the steps that a training in `folder` was begun with; `steps` where there is none.

    A generator's pairs may have been exported only after its `sft_long` was trained.
    """
    try:
        before = int(read_json(folder / PLAN)["max_steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return steps
    if before != steps:
        note(
            f"{folder} was begun with {before} steps; {steps} would be equal terms now. To train "
            "it again, delete that folder and run the same command."
        )
    return before
