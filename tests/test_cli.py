"""The command line as a new user meets it: help, wrong usage, missing files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from shell import malt
from synthetic import make_forest

from malt_data import cli

COMMANDS = sorted(cli.main.commands)
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_in_its_help_and_in_the_readme(name: str) -> None:
    assert f"malt-data {name}" in (cli.main.commands[name].help or "")
    assert f"malt-data {name}" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name: str) -> None:
    for parameter in cli.main.commands[name].params:
        if isinstance(parameter, click.Option):
            help = (parameter.help or "").strip()
            assert help, f"{parameter.opts[0]} has no help"
            assert not help.startswith("["), f"{parameter.opts[0]} only has a default"


WITH_EXAMPLES = [
    pytest.param(command, parameter, id=f"{name} {parameter.opts[0]}")
    for name, command in sorted(cli.main.commands.items())
    for parameter in command.params
    if isinstance(parameter, click.Option)
    if isinstance(parameter.type, click.Path | click.types.StringParamType)
]


@pytest.mark.parametrize(("command", "option"), WITH_EXAMPLES)
def test_every_option_of_free_text_has_an_example(
    command: click.Command, option: click.Option
) -> None:
    """In the examples of its command, or in its own help; a default is one too."""
    examples = (command.help or "").partition("\b\n")[2]
    help = option.help or ""
    assert (
        re.search(rf"{re.escape(option.opts[0])}\b", examples)
        or re.search(r"e\.g\. |\[default: ", help)
        or option.show_default
    )


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_help_fits_80_columns_and_cuts_nothing_off(arguments: list[str]) -> None:
    run = malt(*arguments, "--help", env={**os.environ, "COLUMNS": "80"})
    assert run.returncode == 0
    lines = run.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    shown = [line for line in lines if not line.startswith("Usage: ")]  # [OPTIONS] [FOLDERS]...
    assert not [line for line in shown if line.rstrip().endswith(("...", "…"))]


def test_the_list_of_commands_shows_each_summary_whole_and_on_one_line() -> None:
    run = malt("--help", env={**os.environ, "COLUMNS": "80"})
    indented = [line for line in run.stdout.splitlines() if re.match("  [^ ]", line)]
    rows = dict(line.split(maxsplit=1) for line in indented)
    for name in COMMANDS:
        summary = (cli.main.commands[name].help or "").strip().splitlines()[0]
        assert summary.endswith("."), "the summary goes over several lines"
        assert rows[name] == summary


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys, malt_data\nfrom malt_data.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'vllm', 'polars', 'duckdb', 'pyarrow', "
        "'pydantic', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_every_public_name_can_be_imported() -> None:
    import malt_data

    for name in dir(malt_data):
        assert getattr(malt_data, name) is not None
    with pytest.raises(AttributeError, match="attribute nonsense"):
        _ = malt_data.nonsense  # type: ignore[attr-defined]


INVALID_CALLS = [
    ["build", "--n", "0"],
    ["build", "--n", "three"],
    ["build", "--n", "65"],
    ["build", "--temperature", "-1"],
    ["build", "--max-tokens", "0"],
    ["build", "--limit", "0"],
    ["build", "--shard", "4/3"],
    ["build", "--shard", "x"],
    ["build", "--engine", "abacus"],
    ["build", "--grader", "vibes"],
    ["build", "--config", "nowhere.toml"],
    ["build", "--prompts", "nowhere.toml"],
    ["build", "--nonsense"],
    ["sql"],
    ["sql", "a", "b", "c"],
    ["sql", "--format", "xml", "SELECT 1"],
    ["show", "a", "b", "c"],
    ["nonsense"],
]


@pytest.mark.parametrize("call", INVALID_CALLS, ids=" ".join)
def test_an_invalid_call_exits_with_code_2_and_writes_nothing(
    call: list[str], tmp_path: Path
) -> None:
    run = malt(*call, cwd=tmp_path)
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    assert "Error" in run.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("n = 'many'", "n:"),
        ("colour = 1", "unknown setting 'colour'"),
        ("n = [", "not valid TOML"),
        ("threshold = 1.0", "threshold"),
        ("[adapters]\npainter = 'x'", "adapters"),
    ],
)
def test_an_invalid_config_exits_with_code_2(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(content)
    run = malt("build", "--config", "c.toml", cwd=tmp_path)
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr


FAILURES = [
    (["build", "--questions", "nowhere.jsonl"], "nowhere.jsonl"),
    (["build", "--questions", "gsm9k"], "gsm8k"),
    (
        ["build", "--engine", "openai", "--model", "m", "--base-url", "http://127.0.0.1:9/v1"],
        "127.0.0.1:9",
    ),
    (["build", "--engine", "openai", "--model", "m", "--base-url", "nonsense"], "nonsense"),
    (["stats"], "malt-data build"),
    (["show"], "malt-data build"),
    (["verify"], "malt-data build"),
    (["relabel", "--threshold", "0.6"], "malt-data build"),
    (["sql", "SELECT 1"], "malt-data build"),
]


@pytest.mark.parametrize(
    ("call", "message"),
    FAILURES,
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_failure_prints_one_error_with_the_next_step(
    call: list[str], message: str, tmp_path: Path
) -> None:
    run = malt(*call, cwd=tmp_path)
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr
    errors = [line for line in run.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_a_newer_forest_is_refused_by_version(tmp_path: Path) -> None:
    make_forest(tmp_path / "f")
    manifest = tmp_path / "f" / "forest.json"
    data = json.loads(manifest.read_text()) | {"schema": "forest/7", "something": "new"}
    manifest.write_text(json.dumps(data))
    for call in (["stats"], ["sql"], ["build", "--out"]):
        rest = ["SELECT 1"] if call == ["sql"] else []
        run = malt(*call, tmp_path / "f", *rest)
        assert run.returncode == 1
        assert re.search("forest/7.*forest/2.*pip install", run.stderr)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema": "forest/1"}', "\udcff"])
def test_a_corrupt_manifest_is_a_one_line_error(damage: str, tmp_path: Path) -> None:
    make_forest(tmp_path / "f")
    (tmp_path / "f" / "forest.json").write_bytes(damage.encode("utf-8", "surrogateescape"))
    run = malt("stats", tmp_path / "f")
    assert run.returncode == 1
    assert run.stderr.startswith("Error: ")
    assert "Traceback" not in run.stderr


def test_stats_show_and_verify_describe_the_forest(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=3)
    facts = json.loads(malt("stats", tmp_path / "f", "--json").stdout)
    assert facts["forest"]["trees"] == facts["forest"]["questions"] == 3
    assert [row["role"] for row in facts["roles"]] == ["generator", "verifier", "refiner"]
    plain = malt("stats", tmp_path / "f")
    assert "3 of 3 questions have a tree" in plain.stdout
    assert max(map(len, plain.stdout.splitlines())) <= 80
    name = sorted(forest.done)[1]
    tree = malt("show", tmp_path / "f", f"{name}/g1/v2").stdout
    assert name in tree
    assert len(tree.splitlines()) >= 2 + 6 + 12
    rows = json.loads(malt("show", tmp_path / "f", name[:6], "--json").stdout)
    assert {row["question_id"] for row in rows} == {name}
    assert malt("show", tmp_path / "f", "zzz").returncode == 1
    assert malt("verify", tmp_path / "f").stdout.strip().endswith("is sound: 3 trees.")
    assert malt("stats", cwd=tmp_path, env={"MALT_FOREST": "f", "PATH": ""}).returncode == 0


def test_without_a_command_it_shows_its_help() -> None:
    run = malt()
    assert "Usage: malt-data [OPTIONS] COMMAND" in run.stdout + run.stderr
    assert "\\n" not in run.stdout + run.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["build", "--plan", "--max-hours", "1"],
        ["eval", "--table", "results", "--against", "sa"],
        ["train", "--role", "all", "--out", "team", "--push", "me/team@v1"],
        ["export", "--push", "team"],
    ],
    ids=" ".join,
)
def test_options_that_would_be_ignored_or_fail_late_are_refused_at_once(
    words: list[str], tmp_path: Path
) -> None:
    run = malt(*words, cwd=tmp_path)
    assert run.returncode == 2, run.stderr
    assert not [*tmp_path.iterdir()]


def test_a_secret_among_the_sampling_parameters_is_not_printed(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[sampling]\napi_key = "sk-secret"\n')
    run = malt("build", "--config", "c.toml", "--dry-run", cwd=tmp_path)
    assert run.returncode == 2
    assert "leave api_key out" in run.stderr
    assert "sk-secret" not in run.stderr
