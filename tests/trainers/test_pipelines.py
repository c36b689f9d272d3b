"""Teams of other chains than malt's: their stages, their baselines, and what team.toml has."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from synthetic import make_forest
from trainers.tiny import make_tiny
from untemplated import without_chat_template

from malt_data.cli import main
from malt_data.errors import TrainError
from malt_data.exporters.export import export
from malt_data.exporters.selection import Selection
from malt_data.schemas.exports import config_of
from malt_data.schemas.pipeline import ChatTemplate, Pipeline, shipped
from malt_data.storage.team import read_team
from malt_data.trainers.data import SHARED, load_rows, pipeline_of
from malt_data.trainers.recipe import Recipe
from malt_data.trainers.team import train_team
from malt_data.trainers.training import plan_of

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
]

DUO = Pipeline(
    name="duo",
    turns=(
        {"role": "solver"},
        {"role": "critic", "judges": True},
        {"role": "solver", "prompt": "second_solver"},
    ),
)
PROMPTS = {
    "numeric": {
        "solver": {"user": "{question}"},
        "critic": {"user": "{question}\n{previous}"},
        "second_solver": {"user": "{question}\n{solver}\n{critic}"},
    }
}
SHORT = Recipe(
    trainer={"per_device_train_batch_size": 1}, sft={"max_steps": 1}, dpo={"max_steps": 2}
)
ALL_ROWS = Selection(validation=0, keep_truncated=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny(tmp_path_factory.mktemp("tiny") / "tiny")


def test_rows_with_thoughts_and_rows_without_are_not_mixed(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", 8, (2, 2, 2), pipeline=DUO, prompts=PROMPTS)
    for role in DUO.roles:
        export(forest, config_of(role, "sft"), ALL_ROWS.updated(thinking=role == "solver"))
    with pytest.raises(TrainError, match="some exports with thinking and some without"):
        load_rows(str(forest.folder), SHARED, "sft")


def test_a_team_has_the_roles_of_the_pipeline_that_grew_its_data(tiny: str, tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", 8, (2, 2, 2), model=tiny, pipeline=DUO, prompts=PROMPTS)
    for name in ("solver_sft", "solver_dpo", "critic_sft", "critic_dpo"):
        export(forest, config_of(*name.split("_")), ALL_ROWS)
    source, out = str(forest.folder), tmp_path / "team"
    records = train_team(source, out, recipe=SHORT)
    trained = ["solver_sft", "critic_sft", "critic_dpo"]
    baselines = ["solver_dpo", "solver_sft_long", "critic_sft_long", "shared_sft"]
    assert list(records) == trained + baselines
    assert records["critic_dpo"]["adapter"] == str(out / "critic_sft")
    rows = [load_rows(source, role, "sft").train.num_rows for role in DUO.roles]
    assert load_rows(source, SHARED, "sft").train.num_rows == sum(rows)
    team = read_team(out / "team.toml")
    assert team.adapters == {"solver": f"{out}/solver_sft", "critic": f"{out}/critic_dpo"}
    assert team.lone == {"solver": f"{out}/solver_dpo"}
    assert team.shared == dict.fromkeys(DUO.roles, f"{out}/shared_sft")
    assert [turn.template for turn in team.pipeline.turns] == ["solver", "critic", "second_solver"]
    assert team.pipeline == forest.manifest.spec.chain
    assert team.sampling["prompts"] == PROMPTS
    questions = tmp_path / "next.jsonl"
    questions.write_text('{"question": "What is 1 plus 1?", "answer": "2"}\n')
    words = ["build", "--team", f"{out}/team.toml", "--questions", str(questions)]
    words += ["--out", f"{tmp_path}/next", "--dry-run"]
    assert CliRunner().invoke(main, words).exit_code == 0  # the next round

    first = train_team(source, out, recipe=SHORT.model_copy(update={"dpo_first": True}))
    assert list(first) == ["solver_sft", "solver_dpo", *trained[1:], *baselines[1:]]
    assert read_team(out / "team.toml").adapters["solver"] == str(out / "solver_dpo")


def test_a_team_of_one_role_has_no_shared_adapter(tiny: str, tmp_path: Path) -> None:
    pipeline = shipped("generator")
    forest = make_forest(tmp_path / "f", 8, (4,), model=tiny, pipeline=pipeline)
    export(forest, config_of("generator", "sft"), ALL_ROWS)
    out = tmp_path / "team"
    assert list(train_team(str(forest.folder), out, recipe=SHORT)) == ["generator_sft"]
    export(forest, config_of("generator", "dpo"), ALL_ROWS)
    records = train_team(str(forest.folder), out, recipe=SHORT)
    assert list(records) == ["generator_sft", "generator_dpo", "generator_sft_long"]
    assert read_team(out / "team.toml").lone == {"generator": str(out / "generator_dpo")}


def test_a_base_model_is_trained_on_plain_text(tiny: str, tmp_path: Path) -> None:
    base = without_chat_template(tmp_path / "base", tiny)
    plain = ChatTemplate(plain=True, stop=("\n",))
    forest = make_forest(
        tmp_path / "f", 24, (3, 3), model=base, chat_template=plain, pipeline=shipped("refine")
    )
    run = CliRunner().invoke(main, ["export", str(forest.folder), "--check"])
    assert run.exit_code == 0, run.output
    (prompt, *_) = load_rows(str(forest.folder), "refiner", "sft").train["prompt"]
    assert prompt.endswith("\nCorrected answer:")
    no_baselines = SHORT.model_copy(update={"baselines": False})
    records = train_team(str(forest.folder), tmp_path / "team", recipe=no_baselines)
    assert list(records) == ["generator_sft", "refiner_sft", "refiner_dpo"]
    team = read_team(tmp_path / "team" / "team.toml")
    assert ChatTemplate(**team.sampling["chat_template"]) == plain
    assert team.sampling["prompts"] == forest.manifest.spec.prompts


def test_data_without_a_manifest_is_of_the_shipped_pipeline(tmp_path: Path) -> None:
    assert pipeline_of(str(tmp_path)) == (shipped(), str(tmp_path))


def test_a_training_is_not_resumed_with_rows_of_another_export(tmp_path: Path, tiny: str) -> None:
    """Both exports have one pair for each parent, in the same folder."""
    forest = make_forest(tmp_path / "f", trees=6, n=(3, 2, 2), model=tiny)
    config = config_of("generator", "dpo")
    rows = {}
    for strategy in ("one", "best_worst"):
        report = export(forest, config, ALL_ROWS.updated(strategy=strategy))
        data = load_rows(str(forest.folder), "generator", "dpo")
        rows[strategy] = (report.total, plan_of(data, tiny, SHORT, "dpo"))
    assert rows["one"][0] == rows["best_worst"][0] > 0
    assert rows["one"][1] != rows["best_worst"][1]
    export(forest, config, ALL_ROWS.updated(strategy="best_worst"))  # the same rows again
    data = load_rows(str(forest.folder), "generator", "dpo")
    assert plan_of(data, tiny, SHORT, "dpo") == rows["best_worst"][1]
