"""CONTRIBUTING.md says where something new goes; here that is done to a copy of the package.

Nothing but its own code blocks is applied: an engine, a kind of answer, a pipeline, an export
format, a benchmark and another sort of source. The commands of the copy then know all of them.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub
from openai_server import OpenAIServer

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"^```(?:python|toml|sql)\n(?:#|--) (malt_data/\S+?)(?:, ([^\n]+))?\n(.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
"""A block of code whose first line says where it goes."""
RIDDLES = [
    ("Is ice cold?", "yes"), ("Is fire cold?", "no"), ("Do fish swim?", "Yes"),
    ("Do stones swim?", "No."), ("Is it so?", "perhaps"),
]  # fmt: skip


def blocks() -> list[tuple[str, str, str]]:
    """Return (file, where in it, code) of the blocks that say where they go."""
    return BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text("utf-8"))


def place(text: str, where: str) -> int:
    """Return the line number before which a block goes."""
    lines = text.splitlines()
    how, _, name = where.partition(" ")
    match how:
        case "above":
            return next(i for i, line in enumerate(lines) if line.lstrip().startswith(name))
        case "with":
            return 1 + max(i for i, line in enumerate(lines) if line.startswith("from malt_data"))
        case "at":
            return len(lines)
    assert how == "in", where
    return last_line_of(text, name)


def last_line_of(text: str, name: str) -> int:
    """Return the line that closes the collection `name`, or the one that it is made from."""
    for step in ast.parse(text).body:
        targets = step.targets if isinstance(step, ast.Assign) else [getattr(step, "target", None)]
        if not any(isinstance(target, ast.Name) and target.id == name for target in targets):
            continue
        assert isinstance(step, ast.Assign | ast.AnnAssign)
        found = step.value
        if isinstance(found, ast.DictComp):
            found = found.generators[0].iter
        assert isinstance(found, ast.Dict | ast.Tuple)
        assert found.end_lineno is not None
        return found.end_lineno - 1
    raise AssertionError(f"there is no {name}")


def apply(package: Path) -> None:
    for file, where, code in blocks():
        path = package / file
        assert path.exists() == bool(where), file
        text = path.read_text("utf-8") if where else ""
        lines = text.splitlines(keepends=True)
        at = place(text, where) if where else 0
        gap = "\n\n" if lines[at:] and not code[0].isspace() and "def " in code else ""
        path.write_text("".join([*lines[:at], code, gap, *lines[at:]]), "utf-8")


@dataclass(frozen=True)
class Extended:
    """A copy of the package with the guide's code in it, and a Hub that has its benchmark."""

    package: Path
    environment: dict[str, str]
    folder: Path

    def python(self, *words: object, package: Path | None = None, code: int = 0) -> str:
        run = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=self.folder, capture_output=True, text=True, timeout=120,
            env=self.environment | {"PYTHONPATH": str(package or self.package)},
        )  # fmt: skip
        assert run.returncode == code, run.stderr
        return run.stdout if not code else run.stderr

    def malt(self, *words: object, **options: Any) -> str:
        return self.python("-m", "malt_data", *words, **options)

    def facts(self, *words: object) -> Any:
        return json.loads(self.malt(*words, "--json"))


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Extended]:
    folder = tmp_path_factory.mktemp("extended")
    package = folder / "package"
    shutil.copytree(ROOT / "malt_data", package / "malt_data")
    apply(package)
    with Hub(folder / "hub") as hub:
        environment = hub.environment(folder / "home", token="hf_writer")
        made = Extended(package, environment | {"COLUMNS": "200"}, folder)
        made.python("-c", _UPLOAD, json.dumps(RIDDLES))
        yield made


_UPLOAD = """
import io, json, sys
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq

rows = [{"question": q, "answer": a} for q, a in json.loads(sys.argv[1])]
file = io.BytesIO()
pq.write_table(pa.Table.from_pylist(rows), file)
api = huggingface_hub.HfApi()
api.create_repo("ann/riddles", repo_type="dataset")
for split in ("train", "test"):
    api.upload_file(
        path_or_fileobj=file.getvalue(), path_in_repo=f"{split}.parquet",
        repo_id="ann/riddles", repo_type="dataset",
    )
"""


@pytest.fixture(scope="module")
def forest(extended: Extended) -> Path:
    """Grow all of the new benchmark with the new engine, and grade it as the new kind."""
    words = ("--questions", "riddles", "--engine", "coin", "--n", 3)
    report = extended.facts("build", *words)
    assert report["grown"] == 4
    assert report["refused"] == {"gold is neither yes nor no": 1}
    return extended.folder / "forest"


def test_the_guide_shows_code_for_each_extension() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    things = "an engine", "a kind of answer", "a pipeline", "an export format", "a question source"
    for thing in things:
        section = guide.split(f"## Add {thing}\n")[1].split("\n## ")[0]
        assert BLOCK.search(section)
        assert len(BLOCK.findall(section)) == section.count("\n```\n"), "a block goes nowhere"


def test_the_copy_is_what_runs_and_keeps_the_architecture(extended: Extended) -> None:
    found = extended.python("-c", "import malt_data; print(malt_data.__file__)")
    assert Path(found.strip()).is_relative_to(extended.package)
    shutil.copy(ROOT / "pyproject.toml", extended.package)
    linted = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=extended.package,
        env=os.environ | {"PYTHONPATH": str(extended.package)}, capture_output=True, text=True,
    )  # fmt: skip
    assert linted.returncode == 0, linted.stdout


def test_an_engine_is_a_module_and_a_record(extended: Extended, forest: Path) -> None:
    nodes = extended.facts("sql", forest, "SELECT DISTINCT model, text FROM nodes ORDER BY text")
    assert nodes == [{"model": "coin-1", "text": f"Final Answer: {word}"} for word in ("no", "yes")]
    assert "coin" in extended.malt("build", "--help")
    assert "coin" in extended.malt("build", "--engine", "dice", code=2)


def test_a_kind_is_a_record_and_a_table_of_prompts(extended: Extended, forest: Path) -> None:
    """Its leaves are right where the guess is the gold, and its prompts are the ones asked."""
    rows = extended.facts("sql", forest, _LEAVES)
    assert {row["correct"] == (row["answer"] == row["gold"]) for row in rows} == {True}
    assert {row["kind"] for row in rows} == {"yesno"}
    assert {row["gold"] for row in rows} == {"yes", "no"}
    extended.malt("relabel", forest, "--grader", "yesno", "--out", "again")
    for folder in (forest, "again"):
        assert "forest is sound" in extended.malt("verify", folder).replace(str(folder), "forest")
    for command in ("build", "relabel", "ask", "eval"):
        assert "yesno" in extended.malt(command, "--help")
    plan = ("build", "--questions", "riddles", "--grader", "yesno", "--dry-run", "--out", "new")
    assert extended.facts(*plan)["model"] == "smollm2-135m"  # whose prompts have no table for it


_LEAVES = """
SELECT kind, gold, answer, correct FROM nodes JOIN questions USING (question_id) WHERE depth = 3
"""


def test_a_pipeline_is_a_file(extended: Extended) -> None:
    build = ("build", "--pipeline", "refine2", "--engine", "coin", "--limit", 2, "--n", 2)
    assert extended.facts(*build, "--out", "refined")["grown"] == 2
    paths = extended.facts("sql", "refined", "SELECT DISTINCT roles FROM trajectories")
    assert paths == [{"roles": ["generator", "refiner", "refiner"]}]
    assert "is sound" in extended.malt("verify", "refined")


def test_a_format_is_a_record(extended: Extended, forest: Path) -> None:
    """Its rows are those of its schema, its drops have reasons, and explain and verify know it."""
    report = extended.facts("export", forest, "--role", "verifier", "--format", "judged")
    report = report["verifier_judged"]
    assert sum(report["rows"].values()) + sum(report["dropped"].values()) == 4 * 9
    assert report["dropped"].keys() == {"identical"}
    rows = json.loads(extended.python("-c", _ROWS, forest / "exports/verifier_judged"))
    assert list(rows[0]) == ["prompt", "completion", "verdict", "label", "question_id", "node_id"]
    stored = {row["node_id"]: row for row in extended.facts("sql", forest, "FROM nodes")}
    for row in rows:
        assert row["verdict"] == stored[row["node_id"]]["verdict"]
        assert row["prompt"][0]["content"].startswith("Question: ")
    assert extended.malt("verify", forest / "exports/verifier_judged")
    explained = extended.facts("explain", forest, rows[0]["node_id"])
    assert explained["exports"]["verifier_judged"]["rows"][0]["reason"] is None
    assert "judged" in extended.malt("export", "--help")


_ROWS = """
import json, sys
from pathlib import Path
import polars as pl
shards = sorted(Path(sys.argv[1]).glob("*.parquet"))
print(json.dumps(pl.concat(map(pl.read_parquet, shards)).to_dicts()))
"""


def test_the_card_tells_of_them_and_others_load_the_rows(extended: Extended, forest: Path) -> None:
    extended.malt("export", forest, "--role", "generator", "--format", "judged")
    extended.malt("push", forest, "ann/trees", "--exports", "generator_judged")
    code = (
        "import datasets, huggingface_hub\n"
        "rows = datasets.load_dataset('ann/trees', 'generator_judged')\n"
        "assert all(split.num_rows for split in rows.values())\n"
        "card = huggingface_hub.hf_hub_download('ann/trees', 'README.md', repo_type='dataset')\n"
        "print(open(card, encoding='utf-8').read())"
    )
    card = extended.python("-c", code)
    assert "### generator_judged" in card
    assert "### judged configs" in card
    assert "| verdict | string | right, wrong, unanswered or timeout |" in card
    assert "https://huggingface.co/datasets/ann/riddles" in card
    assert "# yesno, generator, user" in card
    assert "--engine coin" in card


def test_another_sort_of_source_is_a_module_and_a_line(extended: Extended) -> None:
    words = ("build", "--engine", "coin", "--out", "tables", "--n", 1, "--questions")
    assert extended.facts(*words, "times:3")["grown"] == 9
    rows = extended.facts("sql", "tables", "SELECT source, gold FROM questions ORDER BY gold::INT")
    assert rows[-1] == {"source": "times:3", "gold": "9"}
    assert "write a number" in extended.malt(*words, "times:many", code=1)


def test_a_forest_from_before_a_kind_was_added_can_be_continued(
    extended: Extended, tmp_path: Path
) -> None:
    """The prompts of an old forest lack the new kind; that alone makes it no other forest."""
    file, old = tmp_path / "mine.jsonl", tmp_path / "old"
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1, "kind": "numeric"} for n in range(3)]
    rows.append({"question": "Is it so?", "answer": "yes", "kind": "yesno"})

    def prompts() -> dict[str, Any]:
        manifest = json.loads((old / "forest.json").read_text("utf-8"))
        return dict(manifest["spec"]["prompts"])

    with OpenAIServer(lambda *_: "Final Answer: 2") as server:
        build = ("build", "--questions", file, "--n", 1, "--out", old, "--engine", "openai")
        served = ("--model", "test-model", "--base-url", server.base_url)
        file.write_text("\n".join(map(json.dumps, rows[:3])) + "\n", "utf-8")
        extended.malt(*build, *served, package=ROOT)
        before = prompts()
        file.write_text("\n".join(map(json.dumps, rows)) + "\n", "utf-8")
        assert extended.facts(*build, *served)["grown"] == 1
    assert prompts() == before | {"yesno": prompts()["yesno"]}
    assert "yesno" not in before
    assert extended.malt("verify", old)
