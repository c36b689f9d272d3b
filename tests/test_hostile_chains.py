"""Hostile pipelines, parts and graders: one clear sentence, nothing lost, nobody's code run."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shell import Shell
from synthetic import make_forest
from test_hostile import judge, refused, tree

from malt_data.errors import GraderError
from malt_data.graders import Grader
from malt_data.schemas.pipeline import Pipeline

CHAIN = Pipeline(
    name="own",
    turns=(
        {"role": "solver", "n": 2},
        {"role": "critic", "n": 2, "judges": True},
        {"role": "solver", "n": 2, "prompt": "again"},
    ),
    prompts={
        "numeric": {
            "solver": {"user": "{question} Solve it."},
            "critic": {"user": "{question} Criticise {solver}"},
            "again": {"user": "{question} {solver} {critic} Again."},
        }
    },
)
COMMANDS = [
    ["stats"], ["show"], ["verify"],
    ["sql", "FROM trajectories", "--format", "table"], ["sql", "FROM pairs", "--format", "table"],
    ["relabel", "--threshold", "0.7", "--dry-run"], ["relabel", "--grader", "auto", "--dry-run"],
    ["export", "--role", "solver", "--format", "sft", "--out", "out"],
    ["export", "--role", "critic", "--format", "dpo", "--dry-run"], ["build", "--dry-run"],
]  # fmt: skip


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    with Shell() as shell:
        yield shell


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_forest(
        tmp_path_factory.mktemp("own") / "forest", 3, (2, 2, 2), pipeline=CHAIN
    ).folder


@pytest.fixture
def forest(own: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(own, tmp_path / "forest"))


def change_manifest(forest: Path, path: str, value: Any) -> None:
    file = forest / "forest.json"
    manifest = json.loads(file.read_text())
    *above, last = path.split("/")
    table = manifest["spec"]
    for key in above:
        table = table[int(key) if key.isdigit() else key]
    table[int(last) if last.isdigit() else last] = value
    file.write_text(json.dumps(manifest))


def change(path: Path, name: str, values: Any, kind: pa.DataType | None = None) -> None:
    """Replace a column; None: drop it. Nullable if a `kind` is given."""
    table = pq.read_table(path, partitioning=None)
    if values is None:
        pq.write_table(table.drop_columns([name]), path)
        return
    index = table.schema.get_field_index(name)
    field = table.schema.field(index) if kind is None else pa.field(name, kind)
    column = pa.array([values] * table.num_rows, field.type)
    changed = table.set_column(index, field, column)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)


def parts(forest: Path) -> list[Path]:
    return sorted((forest / "nodes").glob("part-*.parquet"))


def run_all(shell: Shell, folder: Path, codes: tuple[int, ...] = (0, 1, 2)) -> str:
    """Run every command; return what they said."""
    before = tree(folder / "forest")
    said = "".join(judge(shell.run(words, folder), codes) for words in COMMANDS)
    assert tree(folder / "forest") == before
    return said


# --- manifests ---------------------------------------------------------------------------------

LITERAL = "$text_0 $1 {leaf} [{turns}.text] {texts} {keys} '); DROP TABLE x; -- \u2028 \0 {} {{x}}"


def test_a_template_is_a_literal_whatever_it_holds(shell: Shell, forest: Path) -> None:
    change_manifest(forest, "prompts/numeric/solver", {"user": "{question} " + LITERAL})
    words = ["export", "--role", "solver", "--format", "kto", "--out", "out"]
    judge(shell.run(words, forest.parent), (0,))
    (file,) = (forest.parent / "out").glob("train-*.parquet")
    prompts = {row["prompt"][-1]["content"] for row in pq.read_table(file).to_pylist()}
    assert any(text.endswith(LITERAL) for text in prompts)


@pytest.mark.parametrize(
    ("path", "value"),
    [("prompts", {}), ("prompts/numeric", {}), ("prompts/numeric/solver", {})],
    ids=["none", "no turn's", "empty"],
)
def test_an_export_needs_the_prompt_of_its_turn(
    shell: Shell, forest: Path, path: str, value: Any
) -> None:
    change_manifest(forest, path, value)
    words = ["export", "--role", "solver", "--format", "sft", "--out", "out"]
    assert "has no prompt of solver" in refused(shell, words, forest.parent)


def test_an_export_reads_only_the_prompts_of_its_questions(shell: Shell, forest: Path) -> None:
    names = {name: {"user": "{question} {choices} " * 50} for name in ("solver", "critic", "again")}
    manifest = json.loads((forest / "forest.json").read_text())
    kinds = {f"k{i}' --": names for i in range(2000)} | manifest["spec"]["prompts"]
    change_manifest(forest, "prompts", kinds)
    words = ["export", "--role", "solver", "--format", "sft", "--dry-run"]
    judge(shell.run(words, forest.parent, seconds=20), (0,))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("pipeline/turns/0/role", "sol'ver"),
        ("pipeline/turns/0/role", "all"),
        ("pipeline/turns/0/n", 10**30),
        ("pipeline/turns/1/judges", "perhaps"),
        ("pipeline/turns", [{"role": "solver", "n": 64}] * 8),
        ("pipeline/turns", []),
        ("pipeline/aliases", {"a|(x+)+$": ["solver"]}),
        ("pipeline", "/etc/passwd"),
        ("n_by_role", {"nobody": 2}),
        ("chat_template", {"plain": True, "stop": [""]}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_invalid_pipeline_is_refused(shell: Shell, forest: Path, path: str, value: Any) -> None:
    change_manifest(forest, path, value)
    assert "forest.json is not a valid manifest" in refused(shell, ["stats"], forest.parent)


@pytest.mark.parametrize("role", ["painter", "sceptic"])
def test_trees_of_other_roles_than_the_manifest_s(shell: Shell, forest: Path, role: str) -> None:
    change_manifest(forest, "pipeline/turns/1/role", role)
    run_all(shell, forest.parent)
    assert "disagree" in shell.run(["verify"], forest.parent).out


@pytest.mark.parametrize("turns", [1, 2, 5])
def test_trees_of_another_depth_than_the_manifest_s(shell: Shell, forest: Path, turns: int) -> None:
    chain = [turn.model_dump() for turn in CHAIN.turns]
    change_manifest(forest, "pipeline/turns", (chain + chain[1:])[:turns])
    run_all(shell, forest.parent)
    judge(shell.run(["verify"], forest.parent), (1,))


def test_a_manifest_that_is_a_pipe(shell: Shell, forest: Path) -> None:
    (forest / "forest.json").unlink()
    os.mkfifo(forest / "forest.json")
    assert "not a regular file" in judge(shell.run(["stats"], forest.parent, seconds=20), (1,))


# --- parts -------------------------------------------------------------------------------------

COLUMNS: list[tuple[str, Any, pa.DataType | None]] = [
    ("node", None, None),
    ("parent", None, None),
    ("text", None, None),
    ("question_id", None, None),
    ("node", None, pa.int32()),
    ("node", "x", pa.string()),
    ("node", float("nan"), pa.float64()),
    ("text", 1, pa.int32()),
    ("text", b"\xff", pa.binary()),
    ("role", "x", pa.dictionary(pa.int8(), pa.string())),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "kind"), COLUMNS, ids=lambda value: ascii(value).replace("\\", "")[:20]
)
def test_a_part_without_a_column_of_a_forest_is_refused(
    shell: Shell, forest: Path, name: str, value: Any, kind: pa.DataType | None
) -> None:
    if value is None and kind is not None:
        table = pq.read_table(parts(forest)[1], partitioning=None)
        index = table.schema.get_field_index(name)
        nulls = table.set_column(index, pa.field(name, kind), pa.nulls(table.num_rows, kind))
        pq.write_table(nulls.replace_schema_metadata(table.schema.metadata), parts(forest)[1])
    else:
        change(parts(forest)[1], name, value, kind)
    assert f"column '{name}'" in run_all(shell, forest.parent, (1, 2))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("node", -1), ("node", 2**31 - 1), ("node", 0), ("parent", 0), ("parent", 10**6),
        ("parent", -5), ("parent", 2**31 - 1), ("depth", 5), ("depth", 0), ("depth", -1),
        ("node_id", "x\x1b[31m\u202e"),
        ("question_id", "zz'\u2028"), ("role", "x' OR 1"), ("extra", True), ("sample", 0),
        ("reward", float("nan")), ("reward", float("inf")),
    ],
    ids=ascii,
)  # fmt: skip
def test_a_tree_that_is_none(shell: Shell, forest: Path, name: str, value: Any) -> None:
    change(parts(forest)[0], name, value)
    run_all(shell, forest.parent)
    judge(shell.run(["verify"], forest.parent), (1,))


@pytest.mark.parametrize(
    "cut",
    [
        lambda table: table.slice(0, 3),
        lambda table: table.slice(2, 3),
        lambda table: table.take(list(reversed(range(table.num_rows)))).slice(1),
        lambda table: pa.concat_tables([table, table]),
        lambda table: table.replace_schema_metadata({b"malt.schema": b"forest/1"}),
    ],
    ids=["beginning", "leaves", "rootless", "twice", "misnamed"],
)
def test_a_tree_in_pieces(shell: Shell, forest: Path, cut: Callable[[pa.Table], pa.Table]) -> None:
    path = parts(forest)[0]
    pq.write_table(cut(pq.read_table(path, partitioning=None)), path)
    run_all(shell, forest.parent)
    judge(shell.run(["verify"], forest.parent), (1,))
    name = pq.read_table(path, partitioning=None)["node_id"][-1].as_py()
    judge(shell.run(["explain", name], forest.parent), (0, 1))


def test_questions_of_another_version_than_they_say(shell: Shell, forest: Path) -> None:
    path = forest / "questions.parquet"
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.replace_schema_metadata({b"malt.schema": b"forest/1"}), path)
    words = ["sql", "FROM questions"]
    assert "column 'cluster' is not in forest/1" in refused(shell, words, forest.parent)


def test_a_choice_that_is_null(shell: Shell, forest: Path) -> None:
    change(forest / "questions.parquet", "choices", [None, "a"])
    run_all(shell, forest.parent)


# --- graders -----------------------------------------------------------------------------------


def _question(meta: str = "{}") -> dict[str, Any]:
    return {
        "question_id": "0" * 16, "source": "s", "split": "train", "question": "q", "choices": None,
        "gold": "1", "kind": "numeric", "cluster": None, "meta": meta,
    }  # fmt: skip


@pytest.mark.parametrize("meta", ["no JSON", "[" * 100_000, "[]", ""], ids=lambda meta: meta[:7])
def test_a_function_is_not_given_a_meta_that_is_none(tmp_path: Path, meta: str) -> None:
    (tmp_path / "one.py").write_text("def grade(completion, question):\n    return 1\n")
    with (
        Grader(f"{tmp_path}/one.py:grade") as grader,
        pytest.raises(GraderError, match="The meta of question 0000"),
    ):
        grader.judge_sync([("text", _question(meta))])


@pytest.mark.parametrize(
    "line",
    ['{"ready": 100000000}', '{"ready": "x"}', '{"id": 0, "error": [1]}', '{"id": 0}', "[1]", "x"],
)
def test_a_function_that_writes_to_every_descriptor(tmp_path: Path, line: str) -> None:
    (tmp_path / "writes.py").write_text(
        "import os\ndef grade(completion, question):\n    for file in range(20):\n        try:\n"
        f"            os.write(file, {(line + chr(10)).encode()!r})\n"
        "        except OSError:\n            pass\n    return 1\n"
    )
    with Grader(f"{tmp_path}/writes.py:grade", timeout_s=2) as grader:
        graded = grader.judge_sync([("text", _question())] * 2)
    assert {each.verdict for each in graded} <= {"right", "timeout"}


# --- the command line --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--n-critic"], "Invalid value for --n-critic"),
        (["--n-critic", "x"], "Invalid value for --n-critic: 'x' is not a number."),
        (["--n-critic="], "Invalid value for --n-critic"),
        (["--n-critic=\x1b[31m\n"], "Invalid value for --n-critic"),
        (["--n-critic=" + "9" * 5000], "Invalid value for --n-critic"),
        (["--n-critic=2"], "No turn has the role 'critic'"),
        (["--n-verifier=-1"], "n_by_role.verifier"),
        (["--pipeline", "nosuch"], "Unknown pipeline 'nosuch'"),
        (["--pipeline", "."], "Unknown pipeline"),
        (["--pipeline", "gone.toml"], "The pipeline file gone.toml cannot be read"),
        (["--pipeline", "large.toml"], "it is larger than 1 MiB"),
        (["--config", "by_role.toml"], "n_by_role"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_calls(shell: Shell, tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "large.toml").write_text("# " + "x" * 2**21)
    (tmp_path / "by_role.toml").write_text("n_by_role = 5\nn_verifier = 2\n")
    done = refused(shell, ["build", "--dry-run", "--out", "new", *words], tmp_path)
    assert message in done
