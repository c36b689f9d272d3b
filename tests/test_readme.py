"""The commands, the session, the TOML and the Python code in README and docs/ work as shown."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import shell
from hub_server import Hub, User
from openai_server import OpenAIServer
from synthetic import make_forest

from malt_data import cli
from malt_data.commands.options import read_config
from malt_data.schemas.spec import BuildSpec

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted(ROOT.glob("docs/**/*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def fenced(page: Path, language: str) -> list[str]:
    return [body for named, body in FENCE.findall(page.read_text("utf-8")) if named == language]


def lines_of_code(page: Path) -> Iterator[str]:
    """Yield the lines that a reader would type: indented blocks, and lines after `$`."""
    for body in fenced(page, "console"):
        yield from (line[2:] for line in body.splitlines() if line.startswith("$ "))
    rest = FENCE.sub("", page.read_text("utf-8"))
    yield from (line[4:] for line in rest.splitlines() if line.startswith("    "))


def calls(lines: Iterator[str]) -> Iterator[list[str]]:
    """Yield the arguments of each `malt-data` call; quoted ones may span several lines."""
    open_call = ""
    for line in lines:
        if not open_call and not line.startswith("malt-data "):
            continue
        open_call += line
        try:
            words = shlex.split(open_call.replace("\\\n", " "), comments=True)
        except ValueError:  # a quote is still open
            open_call += "\n"
            continue
        open_call = ""
        yield words[1 : words.index(">") if ">" in words else None]
    assert not open_call, f"a quote is never closed: {open_call}"


def help_lines(name: str) -> Iterator[str]:
    text = (cli.main.commands[name].help or "").replace("\\\n", " ")
    return (line.strip().partition("  ")[0] for line in text.splitlines())  # and no comment


PAGE_CALLS = [
    (f"{page.relative_to(ROOT)}: {shlex.join(words)}", words)
    for page in PAGES
    for words in calls(lines_of_code(page))
]
HELP_CALLS = [
    (f"{name} --help: {shlex.join(words)}", words)
    for name in sorted(cli.main.commands)
    for words in calls(help_lines(name))
]


@pytest.mark.parametrize(
    "words",
    [words for _, words in PAGE_CALLS + HELP_CALLS],
    ids=[name for name, _ in PAGE_CALLS + HELP_CALLS],
)
def test_every_command_line_shown_parses(words: list[str]) -> None:
    command = cli.main.commands[words[0]]
    context = click.Context(command, info_name=words[0])
    given, left, _ = command.make_parser(context).parse_args(words[1:])
    assert not left, f"too many arguments: {left}"
    for parameter in command.params:
        value = given.get(parameter.name or "")
        assert not (parameter.required and parameter.value_is_missing(value)), parameter.name
        if isinstance(value, str) and not isinstance(parameter.type, click.Path):
            parameter.type_cast_value(context, value)


def test_no_command_line_is_overlooked() -> None:
    """Compare with an independent count, as blocks in another form would not be tested."""
    for page in PAGES:
        shown = re.findall(r"^(?:    |\$ )malt-data ", page.read_text("utf-8"), re.MULTILINE)
        assert len(shown) == sum(name.startswith(f"{page.relative_to(ROOT)}:")
                                 for name, _ in PAGE_CALLS)  # fmt: skip
    assert {name.split()[0] for name, _ in HELP_CALLS} == set(cli.main.commands)


@pytest.mark.parametrize(
    "words", [words for _, words in PAGE_CALLS if words[0] == "sql" and "docs/" in words[1]]
)
def test_queries_on_included_results_return_rows(words: list[str]) -> None:
    run = shell.malt(*words, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) > 1


# --- the session ----------------------------------------------------------------------------------

VARIES = [  # a batch's padding changes the last bits of logits, and with them now and then a text
    (r"(completions, )\d+ tokens in [\d.]+ s", r"\1…"),
    (r"(computed: )[\d.]+ times", r"\1…"),  # which siblings share a batch
    (r"^(\w+,\d+,)[\d.]+$", r"\1…"),  # role, nodes, mean value
    (r"^(\w+ +\d+)( +\d+){6}$", r"\1…"),  # role, nodes, flips and pairs
]


def malt(words: list[str], folder: Path, seconds: int = 60) -> subprocess.CompletedProcess[str]:
    run = subprocess.run(
        [sys.executable, "-m", "malt_data", *words],
        cwd=folder, env=without_forest(), capture_output=True, text=True, timeout=seconds,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run


def without_forest() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "MALT_FOREST"}


def settled(output: str) -> list[str]:
    """Return the reproducible lines of an output, sorted, because SQL guarantees no order."""
    lines = [line.rstrip() for line in output.splitlines() if ", ETA " not in line]
    for pattern, kept in VARIES:
        lines = [re.sub(pattern, kept, line) for line in lines]
    return sorted(lines)


@pytest.mark.model
def test_the_session_runs_as_shown(tmp_path: Path) -> None:
    """This grows a real forest and takes a few minutes, as the README says."""
    (session,) = fenced(README, "console")
    for part in session.split("$ malt-data ")[1:]:
        command, _, shown = part.partition("\n")
        run = malt(shlex.split(command), tmp_path, seconds=1800)
        if shown:  # of a tree only the command is shown
            assert settled(run.stderr + run.stdout) == settled(shown), command
        else:
            assert run.stdout


# --- TOML -----------------------------------------------------------------------------------------


def test_the_pipeline_grows_trees_and_its_settings_play_it(tmp_path: Path) -> None:
    """Each block is written to the file that it names; the setting plays the base model here."""

    def run(*words: str) -> str:
        done = shell.malt(*words, cwd=tmp_path, env=without_forest())
        assert done.returncode == 0, done.stderr
        return done.stdout

    for block in fenced(README, "toml"):
        (name,) = re.findall(r"[\w-]+\.toml", block.partition("\n")[0])
        (tmp_path / name).write_text(block.replace('adapters = "team"', ""), "utf-8")
    rows = [f'{{"question": "What is {n} + 2?", "answer": {n + 2}}}\n' for n in range(8)]
    (tmp_path / "mine.jsonl").write_text("".join(rows[:4]), "utf-8")
    (tmp_path / "test.jsonl").write_text("".join(rows[4:]), "utf-8")
    own = ["--pipeline", "critic.toml"]
    with OpenAIServer(lambda *_: "Final Answer: 4", models=["m"]) as server:
        engine = ["--engine", "openai", "--base-url", server.base_url, "--model", "m"]
        run("build", "--questions", "mine.jsonl", *own, *engine)
        settings = ["--settings", "ma+mv,uncriticised+mv", "--settings-file", "settings.toml"]
        run("eval", "--questions", "test.jsonl", *settings, *own, *engine)
        asked = [request.body["messages"][-1]["content"] for request in server.requests
                 if request.body]  # fmt: skip
    stats = json.loads(run("stats", "--json"))
    assert {row["role"]: row["nodes"] for row in stats["roles"]} == {"solver": 60, "critic": 24}
    assert any("Criticism: \n" in text for text in asked)  # of the critic that is left out


CONFIGS = [block for block in fenced(README, "toml") if block.startswith("# malt-data build ")]


@pytest.mark.parametrize("block", CONFIGS, ids=lambda block: block.partition("\n")[0])
def test_a_config_of_a_build_is_valid(tmp_path: Path, block: str) -> None:
    (name,) = re.findall(r"[\w-]+\.toml", block.partition("\n")[0])
    (tmp_path / name).write_text(block, "utf-8")
    spec = BuildSpec(**read_config(tmp_path / name))
    assert f'model = "{spec.model}"' in block
    assert ("[engine]" in block) == (spec.engine == "vllm")


def test_the_configs_of_base_and_reasoning_models_are_shown() -> None:
    assert [re.findall(r"[\w-]+\.toml", block)[0] for block in CONFIGS] == [
        *("base.toml", "thinking.toml", "direct.toml"),
    ]


# --- Python ---------------------------------------------------------------------------------------


def test_the_python_blocks_run_in_order(tmp_path: Path) -> None:
    """`hf://datasets/me/trees` is the same forest, pushed to the test Hub."""
    make_forest(tmp_path / "forest", trees=20)
    code = "\n".join(fenced(README, "python"))
    assert "hf://datasets/me/trees" in code
    check = "\nassert forest.done and forest.origin == 'hf://datasets/me/trees'"
    with Hub(tmp_path / "hub") as hub:
        hub.tokens["hf_me"] = User("me", write=True)
        environment = hub.environment(tmp_path / "home", token="hf_me")
        for words in (["-m", "malt_data", "push", "me/trees"], ["-c", code + check]):
            run = subprocess.run(
                [sys.executable, *words],
                cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("page", [p for p in PAGES if p.is_relative_to(ROOT / "docs/results")],
                         ids=lambda page: page.parent.name)  # fmt: skip
def test_the_python_blocks_of_results_run(page: Path) -> None:
    """They read the results that come along, from the repository's root."""
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(fenced(page, "python"))],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
