"""`train` one role's adapter, or the whole team."""

import os
from pathlib import Path
from typing import Any

import click

from malt_data.commands import completion
from malt_data.commands.options import (
    FILE,
    LazyChoice,
    NewFolder,
    integer,
    json_option,
    role_option,
)
from malt_data.commands.output import note, print_json, say


def _stages() -> tuple[str, ...]:
    from malt_data.trainers.recipe import STAGES

    return STAGES


@click.command()
@role_option(
    "Role to train, as the dataset calls it; all trains a whole team and writes a team.toml.",
    required=True,
)
@click.option(
    "--stage",
    type=LazyChoice(_stages),
    help="Training stage; with --role all, sft skips DPO.  [default: sft; all: both]",
)
@click.option(
    "--dataset",
    shell_complete=completion.forests,
    help="A forest, an export or USER/NAME[@REVISION].  [default: $MALT_FOREST or ./forest]",
)
@click.option("--model", help="Base model.  [default: the one that sampled the data]")
@click.option("--other-model", is_flag=True, help="Allow a --model that did not sample the data.")
@click.option(
    "--adapter",
    help="Adapter to start from. Required for dpo, where it is also the reference model.",
)
@click.option("--out", required=True, type=NewFolder(), help="Folder of the adapter or team.")
@click.option("--max-steps", **integer(1, 10**9), help="Stop after this many steps.")
@click.option(
    "--seed",
    **integer(0, 2**32 - 1),
    help="Random seed of weights and data order.  [default: the recipe's]",
)
@click.option(
    "--recipe",
    default="malt",
    metavar="NAME|FILE",
    shell_complete=completion.recipes,
    show_default=True,
    help="malt, dpo-nll, dpo-norm, dpo-anchored, or a TOML file.",
)
@click.option(
    "--config",
    type=FILE,
    help="TOML file that overrides the recipe; [trainer] is passed to TRL, [lora] to PEFT.",
)
@click.option(
    "--no-baselines", is_flag=True, help="With --role all: skip the adapters of the baselines."
)
@click.option(
    "--push",
    "repo",
    metavar="USER/NAME",
    help="Push to the Hub; with --role all, to one repo per role: USER/NAME-ROLE.",
)
@json_option
def train(
    role: str,
    stage: Any,
    dataset: str | None,
    adapter: str | None,
    out: Path,
    seed: int | None,
    recipe: str,
    config: Path | None,
    no_baselines: bool,
    repo: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train LoRA adapters for one role or a whole team.

    An interrupted training resumes when you run the same command again.

    \b
    malt-data train --role all --dataset me/trees@v1 --out team
    malt-data train --role all --recipe dpo-nll --seed 1 --out team-1
    malt-data train --role verifier --stage dpo --adapter v_sft --out v_dpo
    malt-data train --role refiner --out r --config lora.toml --push me/refiner
    """
    from malt_data.commands.progress import Progress
    from malt_data.schemas.layout import default_folder
    from malt_data.storage.hub import require_repo
    from malt_data.trainers.recipe import read_recipe
    from malt_data.trainers.train import train as train_role

    if no_baselines and role != "all":
        raise click.UsageError("--no-baselines needs --role all.")
    if role == "all" and (stage == "dpo" or adapter):
        raise click.UsageError("--role all starts with SFT: leave out --stage dpo and --adapter.")
    if repo is not None:
        require_repo(repo)  # before hours of work
    if stage == "dpo" and adapter is None:
        raise click.UsageError("DPO starts from an SFT adapter: pass --adapter FOLDER.")
    chosen = read_recipe(recipe, config).seeded(seed)
    if no_baselines:
        chosen = chosen.updated(baselines=False)
    source = dataset or str(default_folder())
    with Progress(f"{role} {stage or ''}".strip()) as progress:
        records = train_role(
            role,
            source,
            out,
            stage=stage,
            adapter=adapter,
            recipe=chosen,
            on_progress=progress.of("steps"),
            note=progress.note,
            **options,
        )
    if os.environ.get("RANK", "0") != "0":  # one process of several speaks, see accelerate
        return
    if repo is not None:
        _push(repo, out, whole_team=role == "all")
    if as_json:
        print_json({"out": str(out), **records})
    else:
        for name, record in records.items():
            say(f"{name}: {record['steps']} steps on {record['rows']} rows of {record['data']}")


def _push(repo: str, out: Path, *, whole_team: bool) -> None:
    """Push an adapter to `repo`, or each of a team's to `repo`-ROLE."""
    from malt_data.publish.push import push_adapter
    from malt_data.schemas import layout
    from malt_data.storage.team import read_team

    folders = {"": str(out)}
    if whole_team:
        adapters = read_team(out / layout.TEAM).adapters
        folders = {f"-{role}": folder for role, folder in adapters.items()}
    for suffix, folder in folders.items():
        note(f"{repo}{suffix}: commit {push_adapter(folder, repo + suffix)[:12]}")
