"""team.toml: what a team expects of the builds, questions and evaluations it is used in."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from malt_data.cli import main
from malt_data.commands.build import _team_settings
from malt_data.errors import SpecError
from malt_data.schemas.team import Team
from malt_data.storage.team import read_team, write_team

SAMPLING = {
    "temperature": 0.7,
    "max_tokens": 20,
    "prompts": {"numeric": {"generator": {"user": 'Say "so":\n{question}\\ \u2028'}}},
}


def test_a_team_file_round_trips(tmp_path: Path) -> None:
    team = Team(model="m", adapters={"generator": "me/g"}, data={"g": "t@1"}, sampling=SAMPLING)
    write_team(tmp_path / "team.toml", team)
    assert read_team(tmp_path / "team.toml") == team


def test_a_build_samples_with_the_selected_adapters(tmp_path: Path) -> None:
    path = tmp_path / "team.toml"
    sft = {"generator": "me/g1", "verifier": "me/v1", "refiner": "me/r1"}
    team = Team(model="m", adapters={"generator": "me/g2"}, sft=sft)
    write_team(path, team)
    assert _team_settings(path, "team") == {"model": "m", "adapters": {"generator": "me/g2"}}
    assert _team_settings(path, "sft")["adapters"] == sft
    with pytest.raises(SpecError, match=r"no shared adapter for generator, verifier, refiner"):
        _team_settings(path, "shared")
    run = CliRunner().invoke(main, ["build", "--adapters", "sft", "--dry-run"])
    assert run.exit_code == 2
    assert "pass --team too" in run.output


def test_the_seed_0_is_written(tmp_path: Path) -> None:
    write_team(tmp_path / "team.toml", Team(model="m", seed=0))
    assert read_team(tmp_path / "team.toml").seed == 0
