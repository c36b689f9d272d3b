"""A team and its baselines: equal steps, an older team completed, interrupted, without pairs."""

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic import ROLES, make_forest
from trainers.tiny import make_tiny

from malt_data.errors import EvalError, SpecError
from malt_data.evaluation.settings import find_settings, require_adapters
from malt_data.exporters.export import export
from malt_data.exporters.selection import Selection
from malt_data.schemas.exports import config_named, recipe_configs
from malt_data.schemas.pipeline import shipped
from malt_data.storage.team import read_team, seen_by
from malt_data.trainers.recipe import Recipe
from malt_data.trainers.team import train_team

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
]

SHORT = Recipe(
    trainer={"per_device_train_batch_size": 1}, sft={"max_steps": 1}, dpo={"max_steps": 2}
)
ALL_ROWS = Selection(validation=0, keep_truncated=True)
LONG = {role: f"{role}_sft_long" for role in ROLES}


def weights(out: Path) -> dict[str, int]:
    return {p.parent.name: p.stat().st_mtime_ns for p in out.glob("*/adapter_model.safetensors")}


def as_trained_before(out: Path) -> None:
    """Remove from a team what versions without baselines did not write."""
    text = (out / "team.toml").read_text()
    (out / "team.toml").write_text(text.replace("seed = 0\n", ""))
    new = {"seconds", "tokens", "tokens_per_second", "peak_memory", "device"}
    for path in [*out.glob("*/plan.json"), *out.glob("*/training.json")]:
        facts = {k: v for k, v in json.loads(path.read_text()).items() if k not in new}
        if facts["adapter"] is None:
            del facts["adapter"]
        path.write_text(json.dumps(facts))


def test_an_older_team_gets_its_compute_matched_baselines(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=6, n=(3, 2, 2), model=make_tiny(tmp_path / "tiny"))
    for config in recipe_configs(ROLES):
        export(forest, config, ALL_ROWS)
    source, out = str(forest.folder), tmp_path / "team"
    path = out / "team.toml"
    notes: list[str] = []

    def train(**more: Any) -> Any:
        notes.clear()
        return train_team(source, out, note=notes.append, **{"recipe": SHORT, **more})

    train(recipe=SHORT.model_copy(update={"baselines": False}))
    assert set(weights(out)) == {config.name for config in recipe_configs(ROLES)}
    assert not read_team(path).sft_long
    assert read_team(path).seed == 0
    as_trained_before(out)
    assert read_team(path).seed is None
    before = weights(out)

    def interrupt(done: int, total: int) -> None:
        if any("shared_sft" in note for note in notes):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # in the middle of the baselines
        train(on_progress=interrupt)
    assert read_team(path).adapters["refiner"] == str(out / "refiner_dpo")
    assert not read_team(path).sft_long
    records = train()
    assert before.items() <= weights(out).items()  # nothing of the team was trained again
    team = read_team(path)
    assert team.sft_long == {role: str(out / folder) for role, folder in LONG.items()}
    assert team.shared == dict.fromkeys(ROLES, str(out / "shared_sft"))
    assert team.data["shared_sft"] == source
    for role in ROLES:  # the generator, which has no DPO: as many as any role
        long = records[f"{role}_sft_long"]
        assert (long["steps"], long["adapter"]) == (2, str(out / f"{role}_sft"))
    shared = records["shared_sft"]
    assert (shared["steps"], shared["adapter"]) == (3, None)
    assert shared["rows"] == sum(records[f"{role}_sft"]["rows"] for role in ROLES)
    card = (out / "shared_sft" / "README.md").read_text()
    assert "every role" in card
    assert "| max_steps | 3 |" in card
    assert "num_train_epochs" not in card

    assert not team.lone  # without pairs; a note says how to get them
    assert any("malt-lone" in n and "--role generator --format dpo" in n for n in notes)
    adapters, seen = read_team(path).by_set(), seen_by(read_team(path))
    require_adapters(
        find_settings(["star-sa-long", "star-ma-long+mv", "shared+mv"]), shipped(), adapters
    )
    with pytest.raises(EvalError, match=r"lone adapter of generator.*malt-data export"):
        require_adapters(find_settings(["malt-lone+mv"]), shipped(), adapters)
    assert str(out / "shared_sft") in seen
    with pytest.raises(SpecError, match="no lone adapter for generator"):
        team.require("lone")

    export(forest, config_named("generator_dpo"), ALL_ROWS)
    plan = out / "generator_sft_long" / "plan.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"max_steps": 9}))
    trained = weights(out)
    records = train()
    assert any("started with 9 steps, but 2 would match" in note for note in notes)
    assert weights(out).items() - trained.items() == {
        ("generator_dpo", weights(out)["generator_dpo"])
    }
    assert records["generator_dpo"]["adapter"] == str(out / "generator_sft")
    assert read_team(path).lone == {"generator": str(out / "generator_dpo")}
    assert read_team(path).adapters["generator"] == str(out / "generator_sft")

    with path.open("a") as file:
        file.write('[own.elsewhere]\ngenerator = "me/g"\n')
    own = SHORT.model_copy(update={"dpo_first": True, "baselines": False})
    train(recipe=own)  # the team's own now, and the baseline's still
    assert read_team(path).adapters["generator"] == str(out / "generator_dpo")
    assert read_team(path).lone == {"generator": str(out / "generator_dpo")}
    assert read_team(path).own == {"elsewhere": {"generator": "me/g"}}

    trained = weights(out)
    assert list(train(stage="sft")) == [f"{role}_sft" for role in ROLES]  # a team of STaR
    assert read_team(path).adapters == read_team(path).sft == team.sft
    assert weights(out) == trained


def test_baseline_settings_need_a_team_with_every_role() -> None:
    team = {"team": {"generator": "g"}, "sft": {"generator": "g"}, "sft_long": {"generator": "g"}}
    require_adapters(
        find_settings(["malt", "star-ma", "star-sa-long"]), shipped(), team
    )  # the rest is the base model
    with pytest.raises(EvalError, match=r"star-ma-long needs the sft_long adapter of verifier, r"):
        require_adapters(find_settings(["star-ma-long"]), shipped(), team)
    with pytest.raises(EvalError, match=r"needs the shared adapters of a team: pass --team"):
        require_adapters(find_settings(["shared"]), shipped(), {})
