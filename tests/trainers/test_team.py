"""team.toml: what a team expects of the builds, questions and evaluations it is used in."""

from pathlib import Path

from malt_data.trainers.team import Team, read_team, write_team

SAMPLING = {
    "temperature": 0.7,
    "max_tokens": 20,
    "prompts": {"numeric": {"generator": {"user": 'Say "so":\n{question}\\ \u2028'}}},
}


def test_a_team_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    team = Team(model="m", adapters={"generator": "me/g"}, data={"g": "t@1"}, sampling=SAMPLING)
    write_team(tmp_path / "team.toml", team)
    assert read_team(tmp_path / "team.toml") == team
