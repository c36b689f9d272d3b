"""Two pipelines that are not MALT's, from build to push: recomputed by independent code."""

import ast
import json
import re
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from builders.test_build import answer, build_command, node_rows, recompute, write_questions
from exporters.derived import derive
from openai_server import OpenAIServer
from shell import malt

import malt_data
from malt_data.exporters.explain import explain
from malt_data.exporters.export import export, to_datasets
from malt_data.exporters.selection import Selection
from malt_data.forests.forest import open_forest
from malt_data.publish.card import render_card
from malt_data.schemas.exports import all_configs, default_configs

pytestmark = pytest.mark.slow

CRITICS = """
[[turns]]
role = "solver"
n = 3
[[turns]]
role = "critic"
n = 2
judges = true
[[turns]]
role = "solver"
n = 2
prompt = "again"

[prompts.numeric.solver]
user = "{question} Solve it."
[prompts.numeric.critic]
system = "You are a critic."
user = "{question} Criticise: {solver}"
[prompts.numeric.again]
user = "{question} You said {solver} and the critic {previous}. Solve it again."
"""
CHAINS = {
    "malt2": (
        ("generator", "verifier", "refiner", "verifier", "refiner"),
        (2, 1, 2, 1, 2),
        ["--n", 2, "--n-verifier=1"],
    ),
    "critics.toml": (("solver", "critic", "solver"), (3, 2, 2), []),
}
COUNT = 12


@dataclass
class Grown:
    forest: Path
    roles: tuple[str, ...]
    n: tuple[int, ...]
    sent: dict[int, list[dict[str, str]]]
    """The messages of each request by its seed."""


@pytest.fixture(scope="module", params=CHAINS)
def grown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    folder = tmp_path_factory.mktemp("chain")
    roles, n, options = CHAINS[request.param]
    (folder / "critics.toml").write_text(CRITICS)
    pipeline = folder / request.param if request.param.endswith(".toml") else request.param
    questions = write_questions(folder / "q.jsonl", COUNT)
    with OpenAIServer(models=("m",), answer=answer, ignore_n=True) as server:
        command = build_command(server, questions, folder / "forest", "--pipeline", pipeline)
        run = malt(*command, *options)
        assert run.returncode == 0, run.stderr
        sent = {r.body["seed"]: r.body["messages"] for r in server.requests if r.body}
        requests = len(server.requests)
        again = malt(*command, *options)
        assert again.returncode == 0, again.stderr
        assert "nothing to do" in again.stdout
        assert len(server.requests) == requests
    return Grown(folder / "forest", roles, n, sent)


def test_values_and_labels_are_those_of_independent_code(grown: Grown) -> None:
    labels = recompute(grown.forest, grown.n, COUNT, grown.roles)
    assert len(labels) == 2 * len({*grown.roles})  # both labels in every role
    check = malt("verify", grown.forest)
    assert check.returncode == 0, check.stdout


def test_pairs_are_the_siblings_of_differing_label(grown: Grown) -> None:
    families = defaultdict(list)
    for row in node_rows(grown.forest):
        families[row["parent_id"] or row["question_id"]].append(row)
    expected = {
        (chosen["role"], chosen["parent_id"], chosen["node_id"], rejected["node_id"])
        for siblings in families.values()
        for chosen in siblings
        for rejected in siblings
        if chosen["label"] and not rejected["label"]
    }
    query = "SELECT role, parent_id, chosen_id, rejected_id FROM pairs"
    rows = open_forest(grown.forest).sql(query)
    assert rows.height == len(expected)
    assert {*rows.rows()} == expected


def test_trajectories_list_the_turns_in_order(grown: Grown) -> None:
    by_id = {row["node_id"]: row for row in node_rows(grown.forest)}
    rows = open_forest(grown.forest).sql("FROM trajectories").to_dicts()
    assert len(rows) == sum(row["reward"] is not None for row in by_id.values())
    for row in rows:
        assert tuple(row["roles"]) == grown.roles
        steps = row["leaf_id"].split("/")
        path = ["/".join(steps[:end]) for end in range(2, len(steps) + 1)]
        assert row["node_ids"] == path
        assert row["texts"] == [by_id[name]["text"] for name in path]
        assert row["answers"] == [by_id[name]["answer"] for name in path]


def test_every_export_is_what_independent_code_derives(grown: Grown) -> None:
    forest = open_forest(grown.forest)
    for config in all_configs(forest.manifest.spec.pipeline.roles):
        expected, _ = derive(forest, config)
        found = to_datasets(forest, config, Selection())
        assert set(found) == set(expected)
        for split, rows in expected.items():
            assert _sorted(found[split].to_list()) == _sorted(rows), config.name


def _sorted(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def test_every_prompt_is_the_one_that_was_sent(grown: Grown) -> None:
    forest = open_forest(grown.forest)
    seeds = {row["node_id"]: row["seed"] for row in node_rows(grown.forest)}
    checked = 0
    for config in all_configs(forest.manifest.spec.pipeline.roles):
        for rows in to_datasets(forest, config).values():
            for row in rows:
                if config.role is None:  # a trajectory has the prompt of its first turn
                    name = "/".join(row["node_id"].split("/")[:2])
                else:
                    name = row.get("node_id") or row["chosen_id"]
                assert row["prompt"] == grown.sent[seeds[name]]
                checked += 1
    assert checked > 300


def test_every_node_is_explained(grown: Grown) -> None:
    forest = open_forest(grown.forest)
    for row in node_rows(grown.forest)[::7]:
        facts = explain(forest, row["node_id"])
        assert [node["role"] for node in facts["path"]] == [*grown.roles[: row["depth"]]]
        under = row["node_id"] + ("" if row["reward"] is not None else "/")
        assert all(leaf["node_id"].startswith(under) for leaf in facts["leaves"])
        assert len(facts["leaves"]) == row["leaves"]
        roles = {name.rpartition("_")[0] for name in facts["exports"]} - {""}
        assert roles == {row["role"]}


def test_the_commands_speak_of_its_roles(grown: Grown, tmp_path: Path) -> None:
    for words in (["stats"], ["show"], ["relabel", "--threshold", "0.7", "--dry-run"]):
        run = malt(words[0], grown.forest, *words[1:])
        assert run.returncode == 0, run.stderr
        assert all(role in run.stdout or words == ["show"] for role in grown.roles)
    run = malt("sql", grown.forest, "SELECT role, judged FROM verdicts", "--json")
    judges = {"verifier", "critic"} & {*grown.roles}
    assert {row["role"] for row in json.loads(run.stdout)} == judges
    wrong = malt("export", grown.forest, "--role", "painter")
    assert wrong.returncode == 2
    assert re.search(rf"'painter'; the roles are .*{grown.roles[0]}", wrong.stderr)
    role = grown.roles[0]
    run = malt("export", grown.forest, "--role", role, "--format", "dpo", "--out", tmp_path / "e")
    assert run.returncode == 0, run.stderr
    assert [*(tmp_path / "e").glob("train-*.parquet")]


def test_another_pipeline_is_another_forest(grown: Grown, tmp_path: Path) -> None:
    run = malt("build", "--out", grown.forest, "--pipeline", "refine")
    assert run.returncode == 1
    assert "pipeline is" in run.stderr
    run = malt("build", "--out", tmp_path / "f", "--n-painter", "2")
    assert run.returncode == 2
    assert "No turn has the role 'painter'" in run.stderr


def test_a_dry_run_counts_the_turns(grown: Grown) -> None:
    run = malt("build", "--out", grown.forest, "--limit", COUNT, "--dry-run", "--json")
    assert run.returncode == 0, run.stderr
    facts = json.loads(run.stdout)
    assert facts["trees_done"] == COUNT
    assert facts["pipeline"].startswith(f"{grown.roles[0]} {grown.n[0]} → ")


def test_the_card_tells_of_the_turns(grown: Grown, tmp_path: Path) -> None:
    shutil.copytree(grown.forest, tmp_path / "f", ignore=shutil.ignore_patterns("exports"))
    forest = open_forest(tmp_path / "f")
    configs = default_configs(forest.manifest.spec.pipeline.roles)
    reports = [export(forest, config) for config in configs]
    card = render_card(forest, "me/trees", [*configs])
    assert f"sampled per parent: {forest.manifest.spec.chain};" in card
    assert ", then ".join(f"a *{role}*" for role in grown.roles) in card
    assert all(f"config_name: {each.config}\n" in card for each in reports if each.rows)
    assert "--pipeline" in card
    if "critic" in grown.roles:
        assert not re.search(r"--n[- ]", card)  # the pipeline's own
        assert "# numeric, again, user" in card


MALTS = {"generator", "verifier", "refiner"}
FROZEN = {"malt_data/schemas/evaluation.py"}
"""The columns of `eval/1`, which was released with MALT's roles in their names."""


def test_no_module_names_the_roles_of_malt() -> None:
    """Only data does: `schemas/pipelines`, the prompts, and the settings of an evaluation."""
    root = Path(malt_data.__file__).parent
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root.parent).as_posix()
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        words = {f"{role}{end}" for role in MALTS for end in ("", "_answer")}
        assert not strings & words or name in FROZEN, name
    for path in sorted(root.rglob("*.sql")):
        found = set(re.findall(r"'(\w+)'", path.read_text("utf-8")))
        assert not found & MALTS, path.name
