"""What cannot be imported is refused in one sentence with file and line; nothing is written."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from malt_data import ImportSpec, MaltError, SpecError, import_forest
from malt_data.importers.completions import LONGEST_TEXT
from malt_data.questions import files

ASKED = {"question": "What is 2 + 3?", "answer": 5}
OTHER = {"question": "What is 2 + 3?", "answer": 6}
ROOT = {"id": "a", "role": "generator", "text": "5", **ASKED}


def under(name: Any, parent: Any, **more: Any) -> dict[str, Any]:
    return {"id": name, "parent": parent, "role": "refiner", "text": "5", **more}


ROWS: dict[str, tuple[list[Any], str]] = {
    "a cycle": (
        [ROOT, under("b", "c"), under("c", "d"), under("d", "b")],
        "line 2: its parents go in a circle: 'b' → 'c' → 'd' → 'b'",
    ),
    "its own parent": ([ROOT, under("b", "b")], "line 2: its parents go in a circle: 'b' → 'b'"),
    "an orphan": ([ROOT, under("b", "z")], "line 2: its parent 'z' is not in the file"),
    "one id twice": ([ROOT, under("a", "a")], "line 2 has the id 'a', which .*line 1 has too"),
    "one id as text and number": ([{**ROOT, "id": 1}, under("1", 1)], "line 2 has the id '1'"),
    "two golds": (
        [{**ASKED, "completion": "5"}, {**OTHER, "completion": "5"}],
        "line 2 has the gold answer '6' .numeric., but .*line 1 has '5'",
    ),
    "two golds in a tree": (
        [ROOT, under("b", "a", **OTHER)],
        "line 2 has another question or gold answer than .*line 1",
    ),
    "no text": ([{**ASKED, "completion": None}], "line 1 has no completion"),
    "no completion": ([ASKED], "line 1 has no completion"),
    "a message without text": ([{**ASKED, "completion": {"role": "assistant"}}], "line 1 has no"),
    "a message of the user": (
        [{**ASKED, "completion": {"role": "user", "content": "5"}}],
        "line 1 is not one text of an assistant",
    ),
    "neither question nor parent": ([{"id": "a", "text": "5"}], "line 1 has neither a question"),
    "10 MB of text": (
        [{**ASKED, "completion": "5" * 10**7}],
        f"line 1: text has 10000000 characters; the longest .* has {LONGEST_TEXT}",
    ),
    "a question of 10 MB": (
        [{"question": "5" * 10**7, "answer": 5, "completion": "5"}],
        "line 1: question has 10000000 characters",
    ),
    "a NUL in a gold": ([{**ASKED, "answer": "5\0", "completion": "5"}], "line 1: answer contains"),
    "a lone surrogate": ([{**ASKED, "completion": "\ud800"}], "line 1: text contains half"),
    "a NUL": ([ROOT, under("b", "a", text="5\0")], "line 2: text contains a NUL"),
    "a number for a text": ([{**ASKED, "completion": 5}], "line 1: text is not text but 5"),
    "a text for a list": ([{**ASKED, "completions": "5"}], "line 1: completions is not a list"),
    "a list for an id": ([{**ROOT, "id": ["a"]}], "line 1: id is neither text nor a number"),
    "a table for a parent": ([ROOT, under("b", {"a": 1})], "line 2: parent is neither"),
    "a number for a role": ([{**ROOT, "role": 5}], "line 1: role is not text but 5"),
    "a text for a seed": ([{**ROOT, "seed": "5"}], "line 1: seed cannot be '5'"),
    "a huge seed": ([{**ROOT, "seed": 10**400}], "line 1: seed cannot be int"),
    "a seed that is no number": ([{**ROOT, "seed": float("nan")}], "line 1: seed cannot be nan"),
    "negative tokens": ([{**ROOT, "prompt_tokens": -1}], "line 1: prompt_tokens cannot be -1"),
    "an infinite latency": ([{**ROOT, "latency": float("inf")}], "line 1: latency cannot be inf"),
    "a role out of turn": (
        [ROOT, under("b", "a"), under("c", "a", role="verifier")],
        "line 3: the role 'verifier' speaks in turn 2, which is refiner's in the pipeline refine",
    ),
    "escapes in a role": ([{**ROOT, "role": "\x1b[31m"}], r"by \\x1b\[31m; no shipped pipeline"),
    "two ways to ask": (
        [ROOT, {**ROOT, "id": "b", "kind": "choice"}, "{"],
        "line 3 is not valid JSON",
    ),
    "no JSON": (["hello"], "line 1 is not valid JSONL"),
    "a list": ([[1]], "line 1 is not valid JSONL: expected an object"),
    "deep JSON": (["[" * 100_000], "line 1 is nested too deeply"),
    "no gold at all": ([{"question": "Why?", "completion": "5"}], "No tree can .*no gold answer"),
    "only incomplete trees": (
        [ROOT, under("b", "a", extra=True)],
        "No tree can be imported: nothing under it reaches the last turn .2.",
    ),
    "more than a forest holds": (
        [{**ASKED, "completions": ["5"] * 1025}],
        "line 1 completion 1025 is one of 1025 completions of one prompt",
    ),
    "a gold that is a table": (
        [{**ASKED, "answer": {"a": 1}, "completion": "5"}],
        "No tree can be imported: gold is neither text nor a number .1.",
    ),
    "an empty file": ([], "is empty"),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_cannot_be_imported(tmp_path: Path, name: str) -> None:
    rows, message = ROWS[name]
    path = tmp_path / "runs.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    with pytest.raises(MaltError, match=message) as error:
        import_forest([path], tmp_path / "forest")
    assert [path.name for path in tmp_path.iterdir()] == ["runs.jsonl"]
    assert "\n" not in str(error.value)


def test_a_chain_that_is_longer_than_any_pipeline(tmp_path: Path) -> None:
    rows = [ROOT, *(under(str(i), str(i - 1) if i else "a") for i in range(1000))]
    (tmp_path / "runs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(MaltError, match="line 9 is deeper than 8 turns"):
        import_forest([tmp_path / "runs.jsonl"], tmp_path / "forest")


def test_a_line_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST_LINE", 1000)
    (tmp_path / "runs.jsonl").write_text(json.dumps({**ASKED, "completion": "5" * 1000}))
    with pytest.raises(MaltError, match="line 1 is not valid JSONL: longer than 1000 bytes"):
        import_forest([tmp_path / "runs.jsonl"], tmp_path / "forest")


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "nowhere.jsonl").symlink_to("missing.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1PAR1")
    messages = {
        "pipe.jsonl": "is not a file",
        "folder.jsonl": "is not a file",
        "nowhere.jsonl": "No such file",
        "missing.jsonl": "No such file",
        "bytes.jsonl": "line 1 is not UTF-8",
        "rows.parquet": "is not valid PARQUET",
    }
    for name, message in messages.items():
        with pytest.raises(MaltError, match=message):
            import_forest([tmp_path / name], tmp_path / "forest")
    assert not (tmp_path / "forest").exists()


def test_an_existing_folder_or_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text(json.dumps({**ASKED, "completion": "5"}))
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(MaltError, match="taken is not a folder"):
        import_forest([tmp_path / "runs.jsonl"], tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_settings_that_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text(json.dumps({**ASKED, "completion": "5"}))
    with pytest.raises(SpecError, match="unknown key 'answr'"):
        import_forest(
            [tmp_path / "runs.jsonl"], tmp_path / "forest", ImportSpec(fields={"answr": "a"})
        )
    with pytest.raises(SpecError, match="unknown setting 'engine'"):
        ImportSpec(engine="vllm")  # type: ignore[call-arg]
    for setting in ("kind", "grader"):
        spec = ImportSpec.model_validate({setting: "numbers"})
        with pytest.raises(SpecError, match="numbers"):
            import_forest([tmp_path / "runs.jsonl"], tmp_path / "forest", spec)
    assert [path.name for path in tmp_path.iterdir()] == ["runs.jsonl"]
