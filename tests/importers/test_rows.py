"""Rows become a forest like any other: placed, graded, valued, queried, exported, and back."""

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from shell import malt
from synthetic import make_forest

from malt_data import (
    BuildSpec,
    ImportsError,
    ImportSpec,
    MaltError,
    MixError,
    build_forest,
    export,
    find_pipeline,
    import_forest,
    open_forest,
    relabel,
    verify,
)
from malt_data.forests.facts import stats
from malt_data.importers.importing import INCOMPLETE
from malt_data.importers.reading import _FORMATS
from malt_data.publish.card import render_card
from malt_data.schemas.ids import question_id

ASKED = {"question": "What is 2 + 3?", "answer": 5}

HAIKU = {"haiku": {"generator": {"user": "{question}"}}}


def write(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def node(name: str, parent: str | None, role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "parent": parent, "role": role, "text": text, **more}


UNEVEN = [
    node("a", None, "generator", "It is 6.", **ASKED),
    node("b", None, "generator", "It is 5.", **ASKED),
    node("a1", "a", "refiner", "Final Answer: 5"),
    node("a2", "a", "refiner", "Final Answer: 6"),
    node("a3", "a", "refiner", "Final Answer: 7"),
    node("b1", "b", "refiner", "Final Answer: 5"),
]


def test_uneven_trees_are_graded_and_valued(tmp_path: Path) -> None:
    report = import_forest([write(tmp_path / "runs.jsonl", *UNEVEN)], tmp_path / "forest")
    assert report.pipeline == "generator 2 → refiner 3"  # what `refine` has, by the roles
    assert report.completions == {"generator": 2, "refiner": 4}
    forest = open_forest(tmp_path / "forest")
    assert verify(forest) == []
    values = dict(forest.sql("SELECT text, value FROM nodes").rows())
    assert values["It is 6."] == pytest.approx(float(Fraction(1, 3)))
    assert values["It is 5."] == 1
    (question,) = forest.sql("SELECT question_id, gold, kind FROM questions").rows()
    assert question == (question_id("What is 2 + 3?", None), "5", "numeric")
    row = forest.sql("SELECT * FROM nodes WHERE text = 'Final Answer: 7'").row(0, named=True)
    assert row["node_id"] == f"{question[0]}/g0/r2"
    for unknown in ("seed", "prompt_tokens", "completion_tokens", "cached_tokens", "latency"):
        assert row[unknown] is None
    assert (row["model"], row["finish_reason"]) == ("unknown", "unknown")


def test_children_may_come_before_their_parents(tmp_path: Path) -> None:
    write(tmp_path / "there.jsonl", *UNEVEN)
    write(tmp_path / "back.jsonl", *reversed(UNEVEN))
    for name in ("there", "back"):
        import_forest([tmp_path / f"{name}.jsonl"], tmp_path / name)
    there, back = (open_forest(tmp_path / name) for name in ("there", "back"))
    values = "SELECT text, value, leaves FROM nodes ORDER BY text"
    assert there.sql(values).rows() == back.sql(values).rows()
    assert verify(back) == []


def test_verify_finds_a_wider_tree_than_the_manifest_says(tmp_path: Path) -> None:
    import_forest([write(tmp_path / "runs.jsonl", *UNEVEN)], tmp_path / "forest")
    manifest = tmp_path / "forest" / "forest.json"
    facts = json.loads(manifest.read_text())
    facts["spec"]["pipeline"]["turns"][1]["n"] = 1
    manifest.write_text(json.dumps(facts))
    assert any(
        "more than 4 nodes" in problem for problem in verify(open_forest(tmp_path / "forest"))
    )


def test_an_incomplete_trajectory_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        *UNEVEN,
        node("c", None, "generator", "It is 4.", **ASKED),
        node("d", None, "generator", "It is 3.", question="What is 1 + 2?", answer=3),
    ]
    report = import_forest([write(tmp_path / "runs.jsonl", *rows)], tmp_path / "forest")
    assert report.left_out == {INCOMPLETE: 2}
    forest = open_forest(tmp_path / "forest")
    assert forest.sql("SELECT count(*) FROM nodes WHERE depth = 1").item() == 2
    assert forest.sql("SELECT count(*) FROM questions").item() == 1
    assert verify(forest) == []


def test_rollouts_of_one_role_give_sft_and_dpo_rows(tmp_path: Path) -> None:
    said = {"role": "assistant", "content": "<think>2, 3, 5</think>Final Answer: 5"}
    rows = [
        {**ASKED, "completion": "Final Answer: 6", "score": 0.1, "level": 1, "seed": 7},
        {**ASKED, "completion": [said], "score": 0.2, "level": 1, "finish_reason": "length"},
        {"question": "What is 1 + 1?", "answer": "#### 2", "completions": ["2", "3", "4"]},
        {"question": "What is love?", "completion": "Who knows?"},
    ]
    notes: list[str] = []
    spec = ImportSpec(model="mine")
    file = write(tmp_path / "rollouts.jsonl", *rows)
    report = import_forest([file], tmp_path / "forest", spec, note=notes.append)
    assert (report.trees, report.pipeline) == (2, "generator 3")
    assert report.refused == {"no gold answer": 1}
    assert report.dropped == ["score"]
    assert any("score" in note for note in notes)
    forest = open_forest(tmp_path / "forest")
    assert verify(forest) == []
    (meta,) = forest.sql("SELECT meta FROM questions WHERE gold = '5'").rows()[0]
    assert json.loads(meta) == {"level": 1}
    thoughts = forest.sql("SELECT text, thinking, finish_reason FROM nodes WHERE label").rows()
    assert ("Final Answer: 5", "2, 3, 5", "length") in thoughts
    assert forest.sql("SELECT seed FROM nodes WHERE seed IS NOT NULL").item() == 7
    assert forest.sql("SELECT DISTINCT model FROM nodes").item() == "mine"
    assert sum(export(forest, "generator_sft").rows.values()) == 1  # the other was cut off
    dpo = export(forest, "generator_dpo", out=tmp_path / "dpo")
    assert sum(dpo.rows.values()) == 2
    train = pl.concat(pl.read_parquet(path) for path in (tmp_path / "dpo").glob("*.parquet"))
    prompt = train.filter(pl.col("chosen_id").str.ends_with("g0"))["prompt"][0][0]["content"]
    assert prompt.startswith("What is 1 + 1?")


def test_a_question_in_two_files_is_one_tree(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "one.jsonl", {**ASKED, "completion": "5", "epoch": 1}),
        write(tmp_path / "two.jsonl", {**ASKED, "answer": "#### 5", "completion": "6", "epoch": 2}),
    ]
    report = import_forest(files, tmp_path / "forest")
    assert (report.trees, report.completions) == (1, {"generator": 2})
    assert "epoch" in report.dropped
    assert verify(open_forest(tmp_path / "forest")) == []


def test_fields_and_roles_may_have_other_names(tmp_path: Path) -> None:
    rows = [
        {"uid": 1, "from": "solver", "said": "It is 6.", "task": "2 + 3 = ?", "truth": 5},
        {"uid": 2, "of": 1, "from": "fixer", "said": "Final Answer: 5"},
    ]
    spec = ImportSpec(
        fields={
            "id": "uid", "parent": "of", "role": "from", "text": "said",
            "question": "task", "answer": "truth",
        },
        roles={"solver": "generator", "fixer": "refiner"},
    )  # fmt: skip
    import_forest([write(tmp_path / "runs.jsonl", *rows)], tmp_path / "forest", spec)
    forest = open_forest(tmp_path / "forest")
    assert forest.sql("SELECT role, label FROM nodes").rows() == [
        ("generator", True),
        ("refiner", True),
    ]


def test_a_pipeline_of_ones_own(tmp_path: Path) -> None:
    rows = [
        node("a", None, "solver", "It is 6.", **ASKED),
        node("b", "a", "critic", "No, Final Answer: 5"),
    ]
    file = write(tmp_path / "runs.jsonl", *rows)
    with pytest.raises(MaltError, match="by solver → critic; no shipped pipeline"):
        import_forest([file], tmp_path / "forest")
    (tmp_path / "critic.toml").write_text(
        "[[turns]]\nrole = 'solver'\n[[turns]]\nrole = 'critic'\n"
        "[prompts.numeric.solver]\nuser = '{question}'\n"
        "[prompts.numeric.critic]\nuser = '{question} {solver}'\n"
    )
    spec = ImportSpec(pipeline=find_pipeline(tmp_path / "critic.toml"))
    assert import_forest([file], tmp_path / "forest", spec).pipeline == "solver 1 → critic 1"
    assert verify(open_forest(tmp_path / "forest")) == []


@pytest.mark.parametrize("format", ["jsonl", "json", "parquet"])
def test_our_own_nodes_come_back_as_they_were(tmp_path: Path, format: str) -> None:
    """Ids, texts, grades, values, labels, tokens, seeds; whatever order the rows come in."""
    make_forest(tmp_path / "own", trees=4, n=(2, 3, 2))
    query = "FROM nodes JOIN questions USING (question_id) ORDER BY md5(node_id)"
    with (tmp_path / f"rows.{format}").open("wb") as out:
        table = open_forest(tmp_path / "own").sql(query)
        if format == "parquet":
            table.write_parquet(out)
        else:
            rows = [json.dumps(row) for row in table.to_dicts()]
            text = "\n".join(rows) if format == "jsonl" else f"[{','.join(rows)}]"
            out.write(text.encode())
    import_forest([tmp_path / f"rows.{format}"], tmp_path / "back")
    own, back = open_forest(tmp_path / "own"), open_forest(tmp_path / "back")
    assert verify(back) == []
    for every in ("FROM nodes ORDER BY node_id", "FROM questions ORDER BY question_id"):
        assert back.sql(every).equals(own.sql(every))
    assert back.manifest.spec.pipeline.branching == (2, 3, 2)


def test_the_commands_make_the_round_trip(tmp_path: Path) -> None:
    make_forest(tmp_path / "own", trees=2)
    query = "FROM nodes JOIN questions USING (question_id)"
    rows = malt("sql", "own", query, "--format", "jsonl", cwd=tmp_path)
    (tmp_path / "rows.jsonl").write_text(rows.stdout, "utf-8")
    plan = malt("import", "rows.jsonl", "--out", "back", "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(plan.stdout)["trees"] == 2
    assert not (tmp_path / "back").exists()
    run = malt("import", "rows.jsonl", "--out", "back", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout == (
        "2 trees in back: 40 completions, at most generator 2 → verifier 3 → refiner 2.\n"
    )
    same = "SELECT node_id, text, label, value FROM nodes ORDER BY node_id"
    assert open_forest(tmp_path / "back").sql(same).equals(open_forest(tmp_path / "own").sql(same))
    again = malt("import", "rows.jsonl", "--out", "back", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (1, "")
    assert "already exists" in again.stderr
    build = malt("build", "--out", "back", cwd=tmp_path)
    assert build.returncode == 1
    assert "was imported" in build.stderr
    missing = malt("import", cwd=tmp_path)
    assert missing.returncode == 2


def test_an_import_is_relabelled_but_not_built(tmp_path: Path) -> None:
    import_forest([write(tmp_path / "runs.jsonl", *UNEVEN)], tmp_path / "forest")
    forest = open_forest(tmp_path / "forest")
    relabel(forest, forest.manifest.labels.updated(threshold=0.2))
    assert forest.sql("SELECT count(*) FROM nodes WHERE label").item() == 4
    assert verify(open_forest(tmp_path / "forest")) == []
    write(tmp_path / "mine.jsonl", ASKED)
    spec = BuildSpec(questions=str(tmp_path / "mine.jsonl"), pipeline="refine")
    with pytest.raises(MixError, match="was imported"):
        build_forest(spec, tmp_path / "forest")


def test_the_card_says_that_it_was_imported(tmp_path: Path) -> None:
    import_forest([write(tmp_path / "runs.jsonl", *UNEVEN)], tmp_path / "forest")
    card = render_card(open_forest(tmp_path / "forest"), "me/runs", [])
    assert "sampled by something else and imported" in card
    assert "sampled per parent: at most generator 2" in card
    assert "malt-data build" not in card


def test_a_grader_of_ones_own_grades_them(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("def grade(completion, question): return 0.75\n")
    spec = ImportSpec(grader=f"{tmp_path / 'rewards.py'}:grade", kind="haiku", prompts=HAIKU)
    file = write(tmp_path / "runs.jsonl", {"question": "A haiku on rain.", "completion": "Drip."})
    import_forest([file], tmp_path / "forest", spec)
    forest = open_forest(tmp_path / "forest")
    assert forest.sql("SELECT reward, label FROM nodes").rows() == [(0.75, True)]
    assert forest.manifest.labels.grader == "rewards.py:grade"


def test_what_only_lower_turns_have_is_named(tmp_path: Path) -> None:
    rows = [UNEVEN[1], UNEVEN[5] | {"score": 0.5, "answer": "5"}]  # the answer it gives
    report = import_forest([write(tmp_path / "runs.jsonl", *rows)], tmp_path / "forest")
    assert report.dropped == ["answer", "score"]


def test_a_killed_import_leaves_nothing_that_counts(tmp_path: Path) -> None:
    """What a killed process left is removed by the next import."""
    file = write(tmp_path / "runs.jsonl", *UNEVEN)
    left = tmp_path / ".forest.0123abcd.tmp"
    left.mkdir()
    (left / "questions.parquet").write_bytes(b"PAR1")
    import_forest([file], tmp_path / "forest")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["forest", "runs.jsonl"]


def test_the_examples_of_the_page_are_imported(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "import.md").read_text("utf-8")
    rollouts, trees = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (config,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    renamed = rollouts.replace('"question"', '"task"').replace('"answer"', '"truth"')
    renamed = renamed.replace('"completion"', '"role": "solver", "response"')
    (tmp_path / "import.toml").write_text(config)
    for name, rows, more in (
        ("rollouts", rollouts, []),
        ("trees", trees, []),
        ("renamed", renamed, ["--config", "import.toml"]),
    ):
        (tmp_path / f"{name}.jsonl").write_text(rows)
        words = ["import", f"{name}.jsonl", "--out", name, "--dry-run", "--json", *more]
        run = malt(*words, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        expected = {"generator": 1, "refiner": 2} if name == "trees" else {"generator": 4}
        assert json.loads(run.stdout)["completions"] == expected


def test_every_format_that_the_message_names_is_read(tmp_path: Path) -> None:
    for name in _FORMATS:
        path = tmp_path / f"none{name}"
        path.write_bytes(b"")
        with pytest.raises(MaltError, match=f"none{name}"):
            import_forest([path], tmp_path / "forest")
    with pytest.raises(ImportsError, match="unsupported extension"):
        import_forest([write(tmp_path / "runs.csv", "question,answer")], tmp_path / "forest")


def test_extra_nodes_of_an_imported_tree_are_in_no_mean(tmp_path: Path) -> None:
    rows = [
        {**ASKED, "id": str(place), "role": "generator", "text": f"Final Answer: {said}",
         "extra": place > 1}
        for place, said in enumerate([5, 6, 5, 5])
    ]  # fmt: skip
    import_forest([write(tmp_path / "rows.jsonl", *rows)], tmp_path / "imported")
    imported = open_forest(tmp_path / "imported")
    (facts,) = stats(imported)["roles"]
    assert (facts["mean_value"], facts["accuracy"], facts["extra"]) == (0.5, 0.5, 2)
    assert imported.sql("SELECT mean_value, extra FROM role_stats").rows() == [(0.5, 2)]
    assert imported.sql("FROM trees")["value"].to_list() == [0.5]
