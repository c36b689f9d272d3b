"""Opening sources: formats, splits, corrupt files, unknown names, no network."""

import gzip
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from malt_data.errors import QuestionsError
from malt_data.questions.benchmarks import BENCHMARKS
from malt_data.questions.hub import dataset_rows
from malt_data.questions.loading import load_questions
from malt_data.questions.source import Source, pick_split
from malt_data.questions.sources import open_source

ROWS = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(3)]


def jsonl(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def locations(source: Source) -> list[str]:
    return [where for where, _ in source.rows]


# --- formats ----------------------------------------------------------------------------------


def write(path: Path) -> Path:
    """Write ROWS in the format given by the file extension."""
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    csv = "question,answer\n" + "".join(f'"{r["question"]}",{r["answer"]}\n' for r in ROWS)
    match path.name.split(".", 1)[1]:
        case "parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), path)
        case "json":
            path.write_text(json.dumps(ROWS, indent=1))
        case "csv":
            path.write_text("\ufeff" + csv, "utf-8")
        case "jsonl":
            path.write_text("\ufeff" + text + "\n", "utf-8")
        case "jsonl.gz":
            path.write_bytes(gzip.compress(text.encode()))
        case "csv.gz":
            path.write_bytes(gzip.compress(csv.encode()))
    return path


@pytest.mark.parametrize("name", ["parquet", "json", "csv", "jsonl", "jsonl.gz", "csv.gz"])
def test_every_format_gives_the_same_questions(tmp_path: Path, name: str) -> None:
    loaded = load_questions(str(write(tmp_path / f"mine.{name}")))
    assert [q.gold for q in loaded.questions] == ["1", "2", "3"]
    assert (loaded.source, loaded.split, loaded.refused) == (f"mine.{name}", "train", [])


def test_json_lines_with_a_json_extension_are_read(tmp_path: Path) -> None:
    assert len(load_questions(str(jsonl(tmp_path / "test.json"))).questions) == 3


def test_csv_choices_are_json_and_fields_may_span_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text('question,choices,answer\n"Which\nof them?","[""hill"", ""lake""]",lake\n')
    question = load_questions(str(path)).questions[0]
    assert (question.question, question.gold) == ("Which\nof them?", "B")
    assert locations(open_source(str(path))) == [f"{path} line 3"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"question": "?", "answer": "1"}\n{"question": "?',
            r"a\.jsonl line 2 is not valid JSONL",
        ),
        (
            "a.jsonl",
            b'{"question": "?", "answer": "1"}\n[1]\n',
            r"line 2 .*expected an object with .*, got list",
        ),
        ("a.jsonl", b'{"question": "\xe9"}\n', r"a\.jsonl line 1 is not UTF-8 \(byte 0xe9\)"),
        ("a.jsonl", b'{"q": ' + b"[" * 100_000, r"line 1 is nested too deeply"),
        (
            "a.json",
            b'[{"question": "?"}, 3]',
            r"a\.json row 2 .*expected an object with .*, got int",
        ),
        ("a.json", b'[{"question": "?"}', r"a\.json is not valid JSON"),
        (
            "a.csv",
            b"question,answer\n1,2\n1,2,3\n",
            r"line 3 .*expected 2 fields as in the header, got 3",
        ),
        ("a.csv", b"question,question\n1,2\n", r"duplicate field in the header"),
        ("a.csv", b'question,answer\n"1,2', r"is not valid CSV"),
        ("a.csv", b"question,answer\n1,\xff\n", r"a\.csv line 2 is not UTF-8"),
        ("a.parquet", b"PAR1 truncated", r"a\.parquet is not valid PARQUET"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\x00truncated", r"a\.jsonl\.gz cannot be read"),
        ("a.jsonl.gz", b"not gzip", r"a\.jsonl\.gz cannot be read"),
        ("a.txt", b"What?", r"unsupported extension; expected \.jsonl, \.json, \.csv or \.parquet"),
    ],
)
def test_a_corrupt_file_is_an_error_that_names_the_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(QuestionsError, match=message):
        load_questions(str(tmp_path / name))


# --- splits -----------------------------------------------------------------------------------


def test_a_folders_files_are_its_splits(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl")
    jsonl(tmp_path / "dev.jsonl", ROWS[:1])
    folder = str(tmp_path)
    assert [open_source(folder, split=s).split for s in (None, "train", "dev")] == [
        "train", "train", "dev",
    ]  # fmt: skip
    validation = load_questions(folder, split="validation")
    assert (validation.split, validation.source) == ("dev", tmp_path.name)
    assert locations(open_source(folder, split="dev")) == [f"{tmp_path}/dev.jsonl line 1"]
    with pytest.raises(QuestionsError, match="no split 'test'; available: dev, train"):
        open_source(folder, split="test")


def test_without_train_the_first_split_is_taken_and_named(tmp_path: Path) -> None:
    jsonl(tmp_path / "test.jsonl")
    assert load_questions(str(tmp_path)).split == "test"
    assert load_questions(str(tmp_path / "test.jsonl")).split == "test"


def test_the_shards_of_a_split_are_read_together(tmp_path: Path) -> None:
    for i, row in enumerate(ROWS):
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"train-0000{i}-of-00003.parquet")
    assert [q.gold for q in load_questions(str(tmp_path)).questions] == ["1", "2", "3"]


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.csv")
    write(tmp_path / "train.jsonl")
    with pytest.raises(QuestionsError, match="two files for split train"):
        open_source(str(tmp_path))


def test_a_folder_without_question_files_says_so(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("hello")
    with pytest.raises(QuestionsError, match=r"no \.jsonl, \.json, \.csv or \.parquet file"):
        open_source(str(tmp_path))


def test_a_file_without_splits_takes_the_requested_one(tmp_path: Path) -> None:
    path = str(jsonl(tmp_path / "mine.jsonl"))
    assert open_source(path, split="test").split == "test"
    with pytest.raises(QuestionsError, match="no split 'tset'"):
        open_source(path, split="tset")
    with pytest.raises(QuestionsError, match="available: train"):
        open_source(str(jsonl(tmp_path / "train.jsonl")), split="test")


def test_rows_are_selected_by_their_own_split_field(tmp_path: Path) -> None:
    splits = ["test", "dev", "train"]
    rows = [{**row, "split": split} for row, split in zip(ROWS, splits, strict=True)]
    path = str(jsonl(tmp_path / "mine.jsonl", rows))
    for split, gold in ((None, "3"), ("train", "3"), ("test", "1"), ("validation", "2")):
        loaded = load_questions(path, split=split)
        assert [q.gold for q in loaded.questions] == [gold]
        assert load_questions(path, split=loaded.split) == loaded
        assert json.loads(loaded.questions[0].meta) == {}
    with pytest.raises(QuestionsError, match="available: test, dev, train"):
        load_questions(path, split="extra")


def test_the_embedded_set_has_train_and_test_and_no_question_in_both() -> None:
    train, test = load_questions("embedded"), load_questions("embedded", split="test")
    assert (train.split, test.split, train.refused, test.refused) == ("train", "test", [], [])
    ids = [{q.question_id for q in loaded.questions} for loaded in (train, test)]
    assert all(ids)
    assert not ids[0] & ids[1]


def test_csqa_is_tested_on_validation_as_in_the_paper() -> None:
    csqa = BENCHMARKS["csqa"]
    for requested in ("test", "dev", "validation"):
        assert pick_split(requested, list(csqa.splits), "csqa", csqa.aliases) == "validation"
    with pytest.raises(QuestionsError, match="math500 has no split 'train'; available: test"):
        load_questions("math500", split="train")


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gsm8", "Did you mean gsm8k"),
        ("nothing-like-it", "no such file or folder in .*Pass one of embedded, gsm8k"),
        ("data/mine.jsonl", r"No such file or folder: data/mine\.jsonl \(in /"),
        ("./mine", r"No such file or folder: \./mine"),
    ],
)
def test_an_unknown_source_lists_the_available_ones(source: str, message: str) -> None:
    with pytest.raises(QuestionsError, match=message):
        load_questions(source)


# --- the Hub ----------------------------------------------------------------------------------


def test_class_labels_become_their_names() -> None:
    import datasets

    features = datasets.Features(
        {"question": datasets.Value("string"), "answer": datasets.ClassLabel(names=["A", "B"])}
    )
    dataset = datasets.Dataset.from_dict({"question": ["?", "!"], "answer": [1, -1]}, features)
    rows = list(dataset_rows(dataset, "x train"))
    assert rows == [
        ("x train row 1", {"question": "?", "answer": "B"}),
        ("x train row 2", {"question": "!", "answer": -1}),
    ]


LOAD = "import sys; from malt_data.questions.loading import load_questions as l; l(sys.argv[1])"


def hub_error(source: str, endpoint: str, home: Path) -> str:
    """Load `source` in a subprocess, since the Hub endpoint is read at import time."""
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    process = subprocess.run(
        [sys.executable, "-c", LOAD, source], env=env, capture_output=True, text=True, timeout=60
    )
    return process.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("source", ["gsm8k", "math", "someone/something:main@v1"])
def test_without_a_network_the_error_suggests_a_local_file(tmp_path: Path, source: str) -> None:
    line = hub_error(source, "http://127.0.0.1:9", tmp_path)
    assert line.startswith("malt_data.errors.QuestionsError: Dataset ")
    assert "could not be downloaded from the Hub" in line
    assert "--questions path/to/file.jsonl" in line


@pytest.mark.slow
def test_a_silent_hub_times_out_within_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        line = hub_error("csqa", f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
    assert "tau/commonsense_qa could not be downloaded from the Hub" in line
    assert time.monotonic() - started < 45


# --- reasoning-gym ----------------------------------------------------------------------------


def test_without_reasoning_gym_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(QuestionsError, match=r"pip install 'malt-data\[reasoning-gym\]'"):
        load_questions("reasoning-gym:chain_sum")


def test_reasoning_gym_is_deterministic_and_graded_locally() -> None:
    pytest.importorskip("reasoning_gym")
    source = "reasoning-gym:chain_sum?size=20&seed=1"
    loaded = load_questions(source)
    assert loaded == load_questions(source)
    assert loaded.questions != load_questions("reasoning-gym:chain_sum?size=20").questions
    assert len(loaded.questions) == 20
    assert {q.kind for q in loaded.questions} == {"reasoning_gym"}
    assert loaded.source == "reasoning-gym:chain_sum"
    assert len(load_questions("reasoning-gym:chain_sum", limit=5).questions) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "has_gold"),
    [("ab", True), ("rearc", True), ("knights_knaves", True), ("prime_factorization", True),
     ("graph_color", False), ("rush_hour", False)],
)  # fmt: skip
def test_tasks_with_prose_grids_or_no_gold_can_be_asked(task: str, has_gold: bool) -> None:
    """reasoning-gym grades its own answers, so that no gold has to be comparable."""
    pytest.importorskip("reasoning_gym")
    loaded = load_questions(f"reasoning-gym:{task}?size=2")
    assert not loaded.refused
    assert all(bool(question.gold) is has_gold for question in loaded.questions)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("reasoning-gym:chainsum", "Did you mean chain_sum"),
        ("reasoning-gym:chain_sum?colour=red", "unexpected keyword argument 'colour'"),
        ("reasoning-gym:chain_sum?size=many", r"Fix the settings after '\?'"),
        ("reasoning-gym:chain_sum?seed=abc", r"Fix the settings after '\?'"),
    ],
)
def test_invalid_reasoning_gym_sources_are_explained(source: str, message: str) -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(QuestionsError, match=message):
        load_questions(source)
