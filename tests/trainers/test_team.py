"""team.toml: what a team expects of the builds, questions and evaluations it is used in."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from malt_data.cli import main
from malt_data.commands.build import _with_team
from malt_data.errors import EvalError, SpecError, StorageError
from malt_data.evaluation.settings import find_settings, require_adapters
from malt_data.schemas.pipeline import ChatTemplate, Pipeline, shipped
from malt_data.schemas.spec import BuildSpec
from malt_data.schemas.team import Team
from malt_data.storage.team import questions_of, read_team, write_team

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
    assert _with_team(path, "team", {}) == {"model": "m", "adapters": {"generator": "me/g2"}}
    assert _with_team(path, "sft", {})["adapters"] == sft
    with pytest.raises(SpecError, match=r"no shared adapter for generator, verifier, refiner"):
        _with_team(path, "shared", {})
    run = CliRunner().invoke(main, ["build", "--adapters", "sft", "--dry-run"])
    assert run.exit_code == 2
    assert "pass --team too" in run.output


def test_a_team_may_have_sets_of_other_names(tmp_path: Path) -> None:
    path = tmp_path / "team.toml"
    (tmp_path / "again").mkdir()
    again = {"generator": "again", "verifier": "me/v"}
    write_team(path, Team(model="m", own={"again": again}))
    sets = read_team(path).by_set()
    assert sets["again"] == {"generator": str(tmp_path / "again"), "verifier": "me/v"}
    (tmp_path / "own.toml").write_text(
        '[first]\nturns = 1\nadapters = "again"\n[all]\nadapters = "again"\n'
    )
    first, whole = find_settings(["first", "all"], tmp_path / "own.toml")
    assert first.adapter("generator", sets) == str(tmp_path / "again")
    require_adapters([first], shipped(), sets)
    with pytest.raises(EvalError, match=r"all needs .* 'again', which has none for refiner"):
        require_adapters([whole], shipped(), sets)
    with pytest.raises(SpecError, match="own: sft is the name of another set"):
        Team(model="m", own={"sft": again})
    with pytest.raises(SpecError, match="No turn has the role 'critic'"):
        Team(model="m", own={"again": {"critic": "me/c"}})


def test_a_team_of_any_chain_has_the_roles_of_its_pipeline(tmp_path: Path) -> None:
    pipeline = Pipeline(
        name="duo",
        turns=({"role": "solver", "n": 4}, {"role": "critic", "judges": True}, {"role": "solver"}),
        aliases={"attempt": ["solver"]},
    ).model_dump(mode="json", exclude_defaults=True)
    chat_template = {"plain": True, "stop": ["\n"]}
    sampling = {"temperature": 0.3, "pipeline": pipeline, "chat_template": chat_template}
    adapters = {"solver": "me/s", "critic": "me/c"}
    team = Team(model="m", adapters=adapters, sft={"solver": "me/s"}, sampling=sampling)
    path = tmp_path / "team.toml"
    write_team(path, team)
    assert read_team(path) == team
    assert (team.pipeline.roles, team.pipeline.branching) == (("solver", "critic"), (4, 3, 3))
    assert team.require("team") == adapters
    with pytest.raises(SpecError, match="no sft adapter for critic"):
        team.require("sft")
    with pytest.raises(
        SpecError, match="No turn has the role 'verifier'; the roles are solver, critic"
    ):
        Team(model="m", shared={"verifier": "me/v"}, sampling=sampling)
    spec = BuildSpec(adapters=team.require("team"), **read_team(path).sampling)  # the next round
    assert (spec.adapters, spec.chain) == (adapters, team.pipeline)
    assert spec.chat_template == ChatTemplate(**chat_template)


def test_the_seed_0_is_written(tmp_path: Path) -> None:
    write_team(tmp_path / "team.toml", Team(model="m", seed=0))
    assert read_team(tmp_path / "team.toml").seed == 0


def test_questions_of_an_adapter_that_are_no_text_are_explained(tmp_path: Path) -> None:
    (tmp_path / "questions.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(StorageError, match="is not text"):
        questions_of(str(tmp_path))
