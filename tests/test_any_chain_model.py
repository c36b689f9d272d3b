"""A solver and its critic on the embedded model: build, export, train, evaluate, grow again."""

import json
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
from builders.test_build import node_rows
from chains import CRITICS
from exporters.derived import derive
from shell import TRAINING, Shell

from malt_data.exporters.export import to_datasets
from malt_data.forests.forest import open_forest
from malt_data.schemas.exports import all_configs
from malt_data.storage.team import read_team

pytestmark = [pytest.mark.model, pytest.mark.slow]

PIPELINE = (
    CRITICS.replace("n = 2\n", "")
    + """
[prompts.numeric.solver]
user = "Question: What is 3 plus 4?\\nAnswer: Final Answer: 7\\n\\nQuestion: {question}\\nAnswer:"
[prompts.numeric.critic]
user = "Is it true? Answer yes or no.\\nQuestion: {question}\\nAnswer:{solver}\\nVerdict:"
[prompts.numeric.again]
user = "Question: {question}\\nFirst Answer:{solver}\\nVerdict:{critic}\\nFinal Answer:"

[chat_template]
plain = true
stop = ["\\n"]
"""
)
SETTINGS = """
[critics]
adapters = "team"
[first]
turns = ["solver"]
adapters = "team"
"""
RECIPE = """
[trainer]
per_device_train_batch_size = 1
eval_strategy = "no"
"""


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    with Shell(imports=TRAINING) as shell:
        yield shell


def malt(shell: Shell, folder: Path, *words: object) -> str:
    done = shell.run(words, folder, seconds=600)
    assert done.code == 0, done.err
    return done.out


def require_derived(folder: Path) -> None:
    """Check values, labels, pairs and every export of a forest against independent code."""
    rows = node_rows(folder)
    families = defaultdict(list)
    for row in rows:
        families[row["parent_id"]].append(row)
    for row in sorted(rows, key=lambda row: -row["depth"]):
        below = families[row["node_id"]]
        row["exact"] = (
            sum(child["exact"] for child in below) / len(below)
            if below
            else Fraction(row["verdict"] == "right")
        )
        assert row["value"] == pytest.approx(float(row["exact"]), abs=1e-12)
        assert row["label"] == (row["exact"] > Fraction(1, 2))
    forest = open_forest(folder)
    pairs = {
        (one["node_id"], other["node_id"])
        for one in rows
        for other in rows
        if one["label"]
        and not other["label"]
        and (one["question_id"], one["parent_id"]) == (other["question_id"], other["parent_id"])
    }
    assert {*forest.sql("SELECT chosen_id, rejected_id FROM pairs").rows()} == pairs
    for config in all_configs(forest.manifest.spec.pipeline.roles):
        expected, _ = derive(forest, config)
        found = to_datasets(forest, config)
        assert {split: len(one) for split, one in found.items()} == {
            split: len(one) for split, one in expected.items()
        }
        for split, derived in expected.items():
            by_name = {str([row[name] for name in config.ids]): row for row in derived}
            for row in found[split].to_list():
                assert row == by_name[str([row[name] for name in config.ids])]


def test_two_rounds_of_verification_are_those_of_independent_code(
    shell: Shell, tmp_path: Path
) -> None:
    malt(shell, tmp_path, "build", "--pipeline", "malt2", "--n", 2, "--n-verifier", 1,
         "--limit", 1, "--temperature", 1)  # fmt: skip
    require_derived(tmp_path / "forest")


def test_a_team_of_ones_own_is_trained_evaluated_and_grows_the_next_forest(
    shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "critics.toml").write_text(PIPELINE)
    (tmp_path / "settings.toml").write_text(SETTINGS)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    rows = [
        {"question": f"What is {a} plus {b}?", "answer": str(a + b)}
        for a in range(2, 5)
        for b in (3, 5)
    ]
    lines = [json.dumps(row) + "\n" for row in rows]
    (tmp_path / "train.jsonl").write_text("".join(lines[:4]))
    (tmp_path / "test.jsonl").write_text("".join(lines[4:]))

    run = partial(malt, shell, tmp_path)
    run("build", "--questions", "train.jsonl", "--pipeline", "critics.toml", "--temperature", 1)
    run("verify")
    require_derived(tmp_path / "forest")
    pairs = json.loads(run("sql", "SELECT role, count(*) AS n FROM pairs GROUP BY ALL", "--json"))
    assert {row["role"] for row in pairs} == {"solver", "critic"}
    counts = json.loads(run("export", "--json", "--check"))
    assert all(facts["check"]["problems"] == [] for facts in counts.values())
    run("train", "--role", "all", "--out", "team", "--max-steps", 1, "--no-baselines",
        "--config", "recipe.toml")  # fmt: skip
    team = read_team(tmp_path / "team" / "team.toml")
    assert list(team.adapters) == ["solver", "critic"]
    assert [Path(name).name for name in team.adapters.values()] == ["solver_sft", "critic_dpo"]
    assert str(team.pipeline) == "solver 3 → critic 3 → solver 3 (again)"
    run("eval", "--questions", "test.jsonl", "--team", "team/team.toml", "--seeds", 1,
        "--settings-file", "settings.toml", "--settings", "ma,critics+mv,first")  # fmt: skip
    spoken = json.loads(
        run("sql", "results", "SELECT DISTINCT setting, turn, role, adapter FROM completions "
            "ORDER BY ALL", "--json")
    )  # fmt: skip
    trained = {(row["setting"], row["turn"], row["role"], bool(row["adapter"])) for row in spoken}
    assert trained == {
        *(("ma", turn, role, False) for turn, role in enumerate(("solver", "critic", "solver"))),
        *(
            ("critics+mv", turn, role, True)
            for turn, role in enumerate(("solver", "critic", "solver"))
        ),
        ("first", 0, "solver", True),
    }
    run("build", "--questions", "test.jsonl", "--team", "team/team.toml", "--n", 2,
        "--out", "next")  # fmt: skip
    run("verify", "next")
    used = json.loads(run("sql", "next", "SELECT DISTINCT role, adapter FROM nodes", "--json"))
    assert {row["role"]: Path(row["adapter"]).name for row in used} == {
        "solver": "solver_sft", "critic": "critic_dpo",
    }  # fmt: skip
