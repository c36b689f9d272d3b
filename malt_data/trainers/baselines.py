"""Train compute-matched baselines: as many optimiser steps, but without MALT's roles or its DPO.

    sft_long   each role's SFT adapter, trained with SFT for as many more steps as its DPO had
    lone       the role that speaks first, alone, with DPO on its own pairs, starting from its SFT
               adapter
    shared     one adapter for all roles: SFT on all their rows, starting from a new LoRA, with as
               many steps as the SFT stages of the roles together

Baselines use the same settings as the team; each stage has its own learning-rate schedule, as DPO
does. The settings `star-sa-long`, `star-ma-long`, `malt-lone` and `shared` evaluate them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from malt_data.errors import MaltError
from malt_data.storage.documents import read_json
from malt_data.trainers.data import SHARED
from malt_data.trainers.dpo import train_dpo
from malt_data.trainers.sft import train_sft
from malt_data.trainers.training import PLAN

Records = dict[str, dict[str, Any]]
Tables = dict[str, dict[str, str]]


def train_baselines(
    source: str,
    out: Path,
    team: Mapping[str, dict[str, Any]],
    roles: Sequence[str],
    *,
    note: Callable[[str], None],
    **options: Any,
) -> tuple[Records, Tables]:
    """Train the baselines of a finished team, one folder each in `out`; skip finished ones.

    team: the records of the team's stages by folder. roles: in the order in which they speak.
    Returns the baselines' records by folder, and `{"sft_long": {role: folder}, …}`. If the first
    role has no pairs, `lone` is skipped with a note; a team of one role has no `shared`. Raises the
    errors of `train_sft` and `train_dpo`.
    """
    options["note"] = note
    first = roles[0]
    lone = f"{first}_dpo"
    records: Records = {}
    if lone not in team:
        note(f"Baseline {lone}")
        if record := _lone(first, source, out, options):
            records[lone] = record
    tables: Tables = {"lone": {first: lone} if {lone} & {*team, *records} else {}}

    def sft(role: str, key: str, steps: int, adapter: str | None = None) -> None:
        steps = _planned_steps(out / key, steps, note)
        note(f"Baseline {key}: {steps} steps")
        records[key] = train_sft(
            role, source, out / key, adapter=adapter, **options | {"max_steps": steps}
        )

    trained = {**team, **records}
    dpo = {role: trained[f"{role}_dpo"]["steps"] for role in roles if f"{role}_dpo" in trained}
    if dpo:
        for role in roles:
            # A role without DPO has no steps to match, so it gets the maximum over the roles.
            steps = dpo.get(role, max(dpo.values()))
            sft(role, f"{role}_sft_long", steps, str(out / f"{role}_sft"))
        tables["sft_long"] = {role: f"{role}_sft_long" for role in roles}
    if len(roles) > 1:
        sft(SHARED, f"{SHARED}_sft", sum(team[f"{role}_sft"]["steps"] for role in roles))
        tables["shared"] = dict.fromkeys(roles, f"{SHARED}_sft")
    return records, tables


def _lone(role: str, source: str, out: Path, options: dict[str, Any]) -> dict[str, Any] | None:
    """Train the first role alone; return its record, or None (and note it) without pairs."""
    folder = out / f"{role}_dpo"
    try:
        return train_dpo(role, source, folder, adapter=str(out / f"{role}_sft"), **options)
    except MaltError as error:
        if folder.exists():  # training had started
            raise
        # A baseline that cannot start must not fail a complete team.
        options["note"](f"Skipped the baseline malt-lone: {error} Then run the same command again.")
        return None


def _planned_steps(folder: Path, steps: int, note: Callable[[str], None]) -> int:
    """Return the steps of an existing training in `folder`, else `steps`.

    They differ if the first role's pairs were exported after its `sft_long` was trained.
    """
    try:
        before = int(read_json(folder / PLAN)["max_steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return steps
    if before != steps:
        note(
            f"{folder} was started with {before} steps, but {steps} would match now. To train it "
            "again, delete the folder and run the same command."
        )
    return before
