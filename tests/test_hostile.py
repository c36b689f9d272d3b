"""Hostile input on the command line: a one-line error, nothing written, no traceback."""

import asyncio
import datetime
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub, Repo, _add_commit, _git_blob
from openai_server import Fault, OpenAIServer, Reply
from rich.console import Console
from shell import Done, Shell
from synthetic import make_forest

from malt_data.display import LONGEST
from malt_data.engines import Completion, Request
from malt_data.engines.openai import OpenAIEngine
from malt_data.errors import EngineDown, EngineError
from malt_data.exporters.export import export
from malt_data.forests.create import create_forest
from malt_data.forests.forest import open_forest
from malt_data.questions.loading import load_questions
from malt_data.report.terminal import print_rows, write_rows
from malt_data.schemas.exports import config_named
from malt_data.schemas.spec import BuildSpec
from malt_data.storage.query import run_query

RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
ESCAPES = "\x1b[31mred\x9b0m\u202egp\u2066.\x07\r"
MEGABYTE = "k" * 10**6
DEEP = 100_000


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    with Shell() as shell:
        yield shell


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    export(make_forest(folder / "forest", trees=3), config_named("refiner_sft"))
    return folder


def tree(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def judge(done: Done, codes: tuple[int, ...] = (1, 2)) -> str:
    """Check the exit code and output of a call; return its stderr."""
    output = done.err + done.out
    assert done.code is not None, "it hangs"
    assert "Traceback" not in output, output[-3000:]
    assert "panicked" not in output, output[-3000:]
    assert done.code in codes, (done.code, output[-3000:])
    assert not RAW.search(done.err), repr(done.err[:3000])
    assert not RAW.search(done.out), repr(done.out[:3000])
    assert all(len(line) < 2 * LONGEST for line in done.err.splitlines())
    if done.code:
        assert len(re.findall("^Error: ", done.err, re.MULTILINE)) == 1, done.err
    return done.err


def refused(shell: Shell, words: list[Any], folder: Path) -> str:
    before = tree(folder)
    result = judge(shell.run(words, folder))
    assert tree(folder) == before
    return result


# --- TOML: configs, prompts, settings, teams, recipes ------------------------------------------

NO_TOML: dict[str, bytes] = {
    "lists": b"x = " + b"[" * DEEP,
    "tables": b"x = " + b"{a = " * DEEP,
    "closed": b"x = " + b"[" * 300 + b"]" * 300,
    "dotted": b".".join([b"a"] * DEEP) + b" = 1",
    "header": b"[" + b".".join([b"a"] * DEEP) + b"]\nb = 1",
    "quoted": b" . ".join([b'"a"'] * 1000) + b" = 1",
    "key": MEGABYTE.encode()[:900_000] + b" = 1",
    "large": b"# " + MEGABYTE.encode() * 2,
    "latin": 'x = "é"'.encode("latin-1"),
    "utf-16": 'x = "y"'.encode("utf-16"),
    "NUL": b"x\0 = 1",
    "raw escape": b'x = "\x1b[31m"',
    "escaped escape": b'"\\u001b[31m\\u202e" = 1',
    "escaped value": b'n = "\\u001b[31m\\u202e\\u0000"',
    "surrogate": b'x = "\\ud800"',
    "digits": b"n = " + b"9" * 5000,
    "twice": b"n = 1\nn = 2",
    "open": b'x = """',
    "bom": b"\xef\xbb\xbfn = 1",
    "binary": bytes(range(256)) * 10,
}


@pytest.mark.parametrize("name", NO_TOML)
def test_toml(shell: Shell, planted: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(NO_TOML[name])
    refused(shell, ["build", "--dry-run", "--config", file], planted)


@pytest.mark.parametrize(
    "words",
    [
        ["build", "--dry-run", "--prompts"],
        ["build", "--dry-run", "--team"],
        ["export", "forest", "--dry-run", "--config"],
        ["eval", "--dry-run", "--settings", "x", "--settings-file"],
        ["train", "--role", "all", "--out", "team", "--config"],
    ],
    ids=lambda words: words[0] + words[-1],
)
@pytest.mark.parametrize("name", ["lists", "dotted", "escaped escape", "latin"])
def test_invalid_toml_for_every_option(
    shell: Shell, planted: Path, tmp_path: Path, words: list[str], name: str
) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(NO_TOML[name])
    refused(shell, [*words, file], planted)


CONFIGS = {
    f"limit = {2**63}": "limit",
    f"limit = {10**30}": "limit",
    "limit = -1": "limit",
    f"max_tokens = {2**31}": "max_tokens",
    f"seed = {2**64}": "seed",
    "n = 65": "n:",
    "temperature = nan": "temperature",
    "temperature = inf": "temperature",
    "threshold = nan": "threshold",
    "concurrency = 100000": "concurrency",
    f'shard = "1/{"9" * 5000}"': "shard",
    'shard = "١/٢"': "shard",
    'questions = "a\\u0000b.jsonl"': "a\\x00b.jsonl",
    f'questions = "{"x" * 300}.jsonl"': "File name too long",
    'questions = "\\u001b[2J"': "\\x1b[2J",
    'questions = ""': "questions",
    'questions = "reasoning-gym:\\u001b"': "\\x1b",
    'split = "\\u202e"': "\\u202e",
    'base_url = "http://a\\u001b"\nengine = "openai"': "",
    "[fields]\nquestion = 1": "fields",
    '[fields]\n"\\u001b" = "x"': "\\x1b",
    "[prompts.numeric.generator]\nuser = 1": "prompts",
    '[prompts."\\u001b".generator]\nuser = "x"': "\\x1b",
    '[prompts.numeric.generator]\nuser = "{\\u001b}"': "",
    "prompts = 1": "prompts",
}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config[:30])
def test_config(shell: Shell, tmp_path: Path, config: str) -> None:
    (tmp_path / "c.toml").write_text(config)
    result = refused(shell, ["build", "--config", "c.toml", "--out", "new"], tmp_path)
    assert CONFIGS[config] in result


def test_a_template_that_is_not_text_is_refused_in_either_table(
    shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "team.toml").write_text(
        'model = "m"\n[sampling.prompts.numeric.generator]\nuser = 5\n'
    )
    good = '[prompts.numeric.generator]\nuser = "{question}"\n'
    (tmp_path / "c.toml").write_text(good)
    words = ["build", "--dry-run", "--team", "team.toml", "--config", "c.toml"]
    assert "prompts.numeric.generator.user" in refused(shell, words, tmp_path)
    (tmp_path / "p.toml").write_text(good.replace("prompts.", ""))
    (tmp_path / "c.toml").write_text('[prompts.numeric.generator]\nuser = "no placeholder"\n')
    words = ["build", "--dry-run", "--config", "c.toml", "--prompts", "p.toml"]
    assert "must show the generator {question}" in refused(shell, words, tmp_path)


# --- flags -------------------------------------------------------------------------------------

LONG = "x" * 300
FLAGS: list[list[str]] = [
    *(["build", "--dry-run", flag, value] for flag in ("--n", "--limit", "--seed", "--max-tokens")
      for value in (str(2**63), str(10**30), "9" * 5000, ESCAPES, "1e9")),
    *([command, "--out", value] for command in ("build", "eval", "pull me/x", "train --role all",
                                                "export --role refiner --format sft", "relabel")
      for value in (LONG, "a\0b", "/dev/null", "a\udcffb", "forest/nodes/part-evil.parquet")),
    *(["export", "--role", "refiner", "--format", "sft", "--out", value]
      for value in (".", "..", "forest", "forest/exports", "forest/other", "x/..", "/proc/nowhere",
                    "forest/../forest/nodes/part-x.parquet", "/dev/null/x", "a/" * 3000)),
    *([command, value] for command in ("stats", "verify", "show", "explain", "sql", "push", "pull")
      for value in (LONG, "a\0b", ESCAPES, MEGABYTE, "a\udcffb", "hf://datasets/" + ESCAPES)
      if (command, value) != ("sql", LONG)),
    ["eval", "--seeds", "1000000000", "--dry-run"],
    ["eval", "--limit", str(2**63), "--dry-run"],
    ["eval", "--settings", ESCAPES, "--dry-run"],
    ["eval", "--settings", MEGABYTE, "--dry-run"],
    ["export", "--max-per-parent", str(2**63)],
    ["export", "--margin", "nan"],
    ["export", "--seed", str(10**30)],
    ["train", "--role", "all", "--out", "x", "--max-steps", str(2**63)],
    ["relabel", "--threshold", "nan"],
    ["build", "--engine", ESCAPES],
    ["build", "--questions", ESCAPES],
    ["build", "--base-url", "http://" + ESCAPES, "--engine", "openai", "--model", "m"],
    ["build", "--model", "a\udcffb"],
    ["ask", "a\udcffb"],
    [f"--{ESCAPES}"],
    [ESCAPES],
    [MEGABYTE],
    ["build", f"--{ESCAPES}"],
    ["build", f"--{MEGABYTE}"],
]  # fmt: skip


@pytest.mark.parametrize("words", FLAGS, ids=lambda words: ascii(" ".join(words))[:60])
def test_flags(shell: Shell, planted: Path, words: list[str]) -> None:
    refused(shell, [*words[0].split(" "), *words[1:]], planted)


@pytest.mark.parametrize(
    "words", [["stats"], ["build", "--dry-run"], ["build", "--questions", "x.jsonl"],
              ["verify", "x"], ["export"], ["pull", "x"], ["eval", "--questions", "no"]],
    ids=" ".join,
)  # fmt: skip
def test_a_current_directory_that_no_longer_exists(
    shell: Shell, tmp_path: Path, words: list[str]
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    judge(shell.run(words, folder), (0, 1, 2))


@pytest.mark.parametrize("name", ["line\nbreak", "\x1b[31m", "\u202egp.", "a b'\""])
def test_a_folder_with_control_characters_in_its_name_is_printed_escaped(
    shell: Shell, planted: Path, tmp_path: Path, name: str
) -> None:
    words = ["export", planted / "forest", "--role", "refiner", "--format", "sft", "--out", name]
    judge(shell.run(words, tmp_path), (0,))
    assert {Path(path).parts[0] for path in tree(tmp_path)} == {name}
    judge(shell.run(["verify", name], tmp_path), (0,))


# --- question files ----------------------------------------------------------------------------

HALF = '{"question": "a\\ud83d", "answer": "\\ude00 1"}'
QUESTIONS: dict[str, bytes] = {
    "halves.jsonl": HALF.encode(),
    "half id.jsonl": b'{"question": "", "answer": "", "id": "\\ud83d"}',
    "half field.jsonl": b'{"\\ud83d": "", "\\ude00": "1"}',
    "half choices.jsonl": b'{"question": "q", "answer": "A", "choices": ["\\ud83d", "\\ude00"]}',
    "half labels.jsonl": b'{"question": "q", "answer": "\\ude00", "choices": {"text": ["a", "b"],'
    b' "label": ["\\ud83d", "\\ude00"]}}',
    "half split.jsonl": b'{"question": "q", "answer": "", "split": "\\ud83d"}',
    "escapes.jsonl": json.dumps({ESCAPES: 1, "id": ESCAPES}).encode(),
    "bidi.jsonl": json.dumps({"\u202e": 1}, ensure_ascii=False).encode(),
    "field.jsonl": json.dumps({MEGABYTE: 1}).encode(),
    "id.jsonl": json.dumps({"question": "", "id": MEGABYTE}).encode(),
    "deep.jsonl": b'{"question": ' + b"[" * DEEP,
    "deep choices.jsonl": b'{"question": "q", "answer": "A", "choices": "' + b"[" * DEEP + b'"}',
    "deep meta.jsonl": b'{"question": "q", "answer": 1, "meta": ' + b"[" * 900 + b"]" * 900 + b"}",
    "digits.jsonl": b'{"question": "q", "answer": ' + b"9" * 5000 + b"}",
    "infinite.jsonl": b'{"question": "q", "answer": Infinity}',
    "list.jsonl": b"[1]",
    "latin.jsonl": '{"question": "é"}'.encode("latin-1"),
    "NUL.jsonl": b"\0" * 100,
    "controls.jsonl": b"\x1b[31m\x07{",
    "deep.json": b"[" * DEEP,
    "numbers.json": b"[1, 2]",
    "controls.csv": b"\x1b[31m,\x1b[31m\n1,2\n",
    "wide.csv": MEGABYTE.encode() + b"\nx",
    "quote.csv": b'question,answer\n"a',
    "NUL.csv": b"question,answer\na\0,\x1b",
    "text.parquet": b"PAR1 not PAR1",
    "cut.parquet": b"PAR1",
    "text.jsonl.gz": b"no gzip",
    "empty.jsonl": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions(shell: Shell, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(QUESTIONS[name])
    before = tree(tmp_path)
    judge(shell.run(["build", "--dry-run", "--questions", name], tmp_path), (0, 1))
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "kind",
    [pa.date32(), pa.timestamp("ms"), pa.timestamp("us", "UTC"), pa.timestamp("ms", "No/Where"),
     pa.duration("s"), pa.time64("us")],
    ids=str,
)  # fmt: skip
def test_dates_outside_pythons_range(shell: Shell, tmp_path: Path, kind: pa.DataType) -> None:
    number, width = (2**31 - 1, pa.int32()) if kind == pa.date32() else (2**60, pa.int64())
    value = pa.array([number], width)
    table = pa.table({"question": ["q"], "answer": ["x y z"], "at": value.view(kind)})
    pq.write_table(table, tmp_path / "q.parquet")
    refused(shell, ["build", "--questions", "q.parquet", "--out", "new"], tmp_path)


# --- JSON beside the data ----------------------------------------------------------------------

NO_JSON: dict[str, bytes] = {
    "lists": b"[" * DEEP,
    "objects": b'{"a":' * DEEP,
    "closed": b'{"spec": ' + b"[" * 500 + b"]" * 500 + b"}",
    "list": b"[]",
    "null": b"null",
    "latin": b'{"schema": "\xff"}',
    "half": b'{"schema": "\\ud800"}',
    "number": b'{"schema": 1}',
    "table": b'{"schema": {"\\u001b[31m": 1}}',
    "escapes": b'{"schema": "\\u001b[31m\\u202e"}',
    "digits": b'{"schema": "forest/' + b"9" * 5000 + b'"}',
    "integer": b'{"schema": ' + b"9" * 5000 + b"}",
    "key": b'{"schema": "forest/2", "' + MEGABYTE.encode() + b'": 1}',
    "empty": b"",
}


@pytest.mark.parametrize("name", NO_JSON)
@pytest.mark.parametrize("command", ["stats", "build --dry-run --out"])
def test_manifest(shell: Shell, tmp_path: Path, name: str, command: str) -> None:
    (tmp_path / "forest.json").write_bytes(NO_JSON[name])
    refused(shell, [*command.split(), "."], tmp_path)


@pytest.mark.parametrize("name", NO_JSON)
def test_records(shell: Shell, tmp_path: Path, name: str) -> None:
    for file in ("eval.json", "export.json", "predictions.parquet"):
        (tmp_path / file).write_bytes(NO_JSON[name])
    judge(shell.run(["verify", "."], tmp_path))
    refused(shell, ["sql", ".", "FROM accuracy"], tmp_path)
    refused(shell, ["eval", "--dry-run", "--out", "."], tmp_path)


# --- SQL ---------------------------------------------------------------------------------------

QUERIES = [
    "SELECT error(chr(27) || '[31mred' || chr(8238))",
    f"SELECT error(repeat('x', {10**6}))",
    "SELECT error(chr(10) || 'Error: forged')",
    f'FROM "{"t" * 100_000}"',
    f'FROM "{ESCAPES}"',
    f'SELECT "{ESCAPES}" FROM nodes',
    "SELECT " + "(" * 5000 + "1" + ")" * 5000,
    ESCAPES,
    "SELECT * FROM read_text('/etc/passwd')",
    f"SELECT * FROM '{ESCAPES}.csv'",
    "COPY nodes TO 'x.csv'",
    "SELECT",
    "",
]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: ascii(query)[:40])
def test_queries(shell: Shell, planted: Path, query: str) -> None:
    refused(shell, ["sql", query], planted)


@pytest.mark.parametrize("form", ["table", "csv", "json", "jsonl"])
@pytest.mark.parametrize(
    "query",
    ["SELECT 1 AS \"a\u202eb\x1b[31m\"", "SELECT chr(27) || '[2J' AS x", f'SELECT 1 AS "{LONG}"'],
    ids=["name", "value", "long"],
)  # fmt: skip
def test_names_and_values_of_columns(shell: Shell, planted: Path, form: str, query: str) -> None:
    done = shell.run(["sql", query, "--format", form], planted)
    assert done.code == 0
    if form == "table":  # the others are data; raw only where they go to no terminal
        judge(done, (0,))


# --- through Python ----------------------------------------------------------------------------


def test_lone_surrogates_are_kept_out_of_a_forest(tmp_path: Path) -> None:
    rows = [
        {"question": "q", "answer": "1", "split": "\ud83d", "source": "\ude00", "note": "\ud83d"},
        {"question": "", "answer": "1", "split": "\ud83d", "id": "\ud83d\x1b[31m"},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_questions(str(tmp_path / "q.jsonl"))
    spec = BuildSpec(questions="q.jsonl", split=loaded.split)
    forest = create_forest(tmp_path / "f", spec, loaded.questions, loaded.report())
    assert open_forest(forest.folder).questions().collect()["split"].to_list() == ["\\ud83d"]
    assert "(\\\\ud83d\\\\x1b[31m)" in (tmp_path / "f" / "forest.json").read_text()


VALUES = [
    "INTERVAL 1 DAY", "[INTERVAL 99 YEAR]", "MAP {'a': 1}", "MAP {[1]: MAP {1: 2}}", "'101'::BIT",
    "{'a': '1'::BIT}", "union_value(a := 1)", "[union_value(a := 1)]", "'10:00:00+01'::TIMETZ",
    "(2::HUGEINT ^ 126)::HUGEINT", "340282366920938463463374607431768211455::UHUGEINT",
    "18446744073709551615::UBIGINT", "'a'::ENUM('a', 'b')", "['a'::ENUM('a', 'b')]", "uuid()",
    "DATE '2020-01-01'", "'infinity'::DATE", "DATE '290000-01-01'", "DATE '-5000-01-01'",
    "'-infinity'::TIMESTAMPTZ", "[TIMESTAMP '290000-01-01']", "TIMESTAMP_S '2020-01-01'",
    "TIME '24:00:00'", "TIME_NS '10:00:00'", "'\\xAA'::BLOB", "['\\xAA'::BLOB]", "{'a': 'x'::BLOB}",
    "1.5::DECIMAL(38, 10)", "NULL", "[]", "[NULL]", "{'a': NULL}", "NULL::STRUCT(a INT)",
    "[1, 2]::INT[2]", "[[1], NULL]::INT[1][2]", "'{\"a\": 1}'::JSON", "1::BIGNUM", "'x'::VARIANT",
    "'POINT(1 1)'::GEOMETRY", "row(1, 'x')", "{'size': 1}", "'nan'::DOUBLE", "'-inf'::FLOAT",
    "'a' || chr(0) || 'b'", "[{'a': [{'b': DATE '2020-01-01'}]}]", "list_value(uuid())",
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_every_type_of_duckdb_prints_in_every_format(planted: Path, value: str) -> None:
    forest = open_forest(planted / "forest")
    query = f'SELECT {value} AS "a.b \'"" c", {value} AS "a.b \'"" c", 1 AS x'
    assert forest.sql(query).width == 3
    rows = pl.DataFrame(run_query(forest, query, printable=True))
    console = Console(file=io.StringIO())
    assert print_rows(rows, console) == 0
    for form in ("csv", "json", "jsonl", "parquet"):
        written = io.BytesIO()
        frame = pl.DataFrame(run_query(forest, query)) if form == "parquet" else rows
        write_rows(frame, form, written)
        assert written.tell()


def test_types_that_polars_lacks_are_cast_to_text(planted: Path) -> None:
    query = "SELECT INTERVAL 1 DAY, MAP {'a': 1}, '101'::BIT, DATE '2020-01-02', sum(1)"
    row = open_forest(planted / "forest").sql(query).row(0)
    assert row == ("1 day", "{a=1}", "101", datetime.date(2020, 1, 2), 1)


CHOICE = {"index": 0, "message": {"content": "5"}, "finish_reason": "stop"}
ANSWERS: dict[str, Any] = {
    "deep": b"[" * DEEP,
    "deep objects": b'{"choices": ' * DEEP,
    "digits": b'{"choices": ' + b"9" * 5000 + b"}",
    "no UTF-8": b'{"choices": "\xff"}',
    "many tokens": {"choices": [CHOICE], "usage": {"completion_tokens": 2**31}},
    "more tokens": {"choices": [CHOICE], "usage": {"prompt_tokens": 2**70}},
    "fewer than none": {"choices": [CHOICE], "usage": {"completion_tokens": -1}},
    "usage is a list": {"choices": [CHOICE], "usage": [1]},
    "reason is a table": {"choices": [{**CHOICE, "finish_reason": {"a": 1}}]},
    "content is a list": {"choices": [{**CHOICE, "message": {"content": ["5"]}}]},
    "message is a text": {"choices": [{**CHOICE, "message": "5"}]},
    "choices are a table": {"choices": {"0": CHOICE}},
    "choice is null": {"choices": [None]},
    "error": {"error": {"message": ESCAPES}},
    "escapes": ESCAPES.encode(),
}


class Hostile(OpenAIServer):
    """Answers the first request with `bytes`, all others correctly."""

    first: Any = None

    def _complete(self, body: dict[str, Any]) -> Any:
        first, self.first = self.first, None
        return super()._complete(body) if first is None else first


async def _ask(server: OpenAIServer) -> Completion:
    engine = await OpenAIEngine.open(None, base_url=server.base_url, backoff_s=0.001, max_retries=2)
    request = Request(({"role": "user", "content": "2 + 3"},), (1,), 0.0, 10)
    try:
        (found,) = [completion async for _, completion in engine.complete(request)]
        return found
    finally:
        await engine.close()


@pytest.mark.parametrize("name", ANSWERS)
def test_an_invalid_response_costs_one_request(name: str) -> None:
    with Hostile() as server:
        server.first = ANSWERS[name]
        assert asyncio.run(_ask(server)).text == "seed 1 sample 0"
        assert len(server.bodies) == 2


@pytest.mark.parametrize("reason", ["\ud800", "\x1b[31m", "r" * 10**6])
def test_a_reason_can_be_stored(reason: str) -> None:
    with OpenAIServer(lambda *_: Reply("5", reason)) as server:
        found = asyncio.run(_ask(server)).finish_reason
    assert len(found.encode()) <= 64


@pytest.mark.parametrize("name", ["\ud800", ESCAPES, MEGABYTE])
def test_a_model_with_an_unusable_name_is_refused(name: str) -> None:
    with (
        OpenAIServer(models=[name]) as server,
        pytest.raises(EngineDown, match="--model") as result,
    ):
        asyncio.run(_ask(server))
    assert not RAW.search(str(result.value))
    assert len(str(result.value)) < 2 * LONGEST


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 429, 500])
@pytest.mark.parametrize("message", [ESCAPES, MEGABYTE, "\ud800"], ids=["escapes", "long", "half"])
def test_server_messages_are_quoted_escaped(status: int, message: str) -> None:
    with (
        OpenAIServer(refuse=lambda _: Fault(status, message)) as server,
        pytest.raises(EngineError) as result,
    ):
        asyncio.run(_ask(server))
    assert not RAW.search(str(result.value))
    assert len(str(result.value)) < 2 * LONGEST


# --- the Hub -----------------------------------------------------------------------------------

NAMES = [
    "nodes/part-../../../evil.parquet", "exports/../evil", "nodes/part-a\\..\\..\\evil.parquet",
    "exports//evil", "exports/./evil", "exports/\x1b[31m", "nodes/part-\n.parquet", "exports/..",
]  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with Hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="module")
def hub_shell(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with Shell(hub.environment(tmp_path_factory.mktemp("home"))) as shell:
        yield shell


def publish(hub: Hub, name: str, files: dict[str, bytes]) -> None:
    """Create a dataset repo with `files`, whatever their names."""
    repo = hub._repos["dataset", name] = Repo("dataset", name, private=False)
    tree = {path: _git_blob(content) for path, content in files.items()}
    _add_commit(repo, "refs/heads/main", None, "made", "", "ann", tree)


@pytest.mark.parametrize("path", NAMES)
def test_a_repo_with_hostile_file_names(
    hub: Hub, hub_shell: Shell, planted: Path, tmp_path: Path, path: str
) -> None:
    manifest = (planted / "forest" / "forest.json").read_bytes()
    publish(hub, "ann/evil", {"forest.json": manifest, path: b"evil"})
    result = refused(hub_shell, ["pull", "ann/evil", "--out", "new"], tmp_path)
    assert "ann/evil on the Hub has a file with an unsafe path" in result
    judge(hub_shell.run(["stats", "hf://datasets/ann/evil"], tmp_path), (0, 1))
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("name", NO_JSON)
def test_a_repo_with_a_hostile_manifest(
    hub: Hub, hub_shell: Shell, tmp_path: Path, name: str
) -> None:
    publish(hub, "ann/evil", {"forest.json": NO_JSON[name]})
    refused(hub_shell, ["stats", "hf://datasets/ann/evil"], tmp_path)


# --- a terminal --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_rows_are_escaped_on_a_terminal(planted: Path, form: str) -> None:
    ours, theirs = os.openpty()
    query = "SELECT chr(27) || chr(8238) || '[31m' AS \"a\u202e\""
    words = [sys.executable, "-m", "malt_data", "sql", "forest", query, "--format", form]
    done = subprocess.run(words, cwd=planted, stdout=theirs, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 0, done.stderr
    shown = os.read(ours, 10_000).decode()
    assert "\\u202e" in shown
    assert not RAW.search(shown.replace("\r\n", "\n")), ascii(shown)
