"""docs/api.md names the public API, no more and no less, and its examples do what they show.

They run one after the other in one process, against a scripted server and the tests' own Hub. What
a line shows behind `# →` is compared. A block that cannot run here says so in a comment above it.
"""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub, User
from openai_server import OpenAIServer

import malt_data

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
BLOCK = re.compile(r"^(<!-- not run.*?-->\n)?```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ENTRY = re.compile(r"^- `(\w+)(\([^`]*\))?`", re.MULTILINE)
ADDRESS = "http://127.0.0.1:8000/v1"


def page() -> str:
    return PAGE.read_text("utf-8")


def answer(messages: list[dict[str, str]], seed: int | None, sample: int) -> str:
    """Add the numbers of the question; now and then wrongly."""
    one, other = map(int, re.findall(r"(\d+) \+ (\d+)", messages[-1]["content"])[0])
    return f"Final Answer: {one + other + ((seed or 0) + sample) % 2}"


def test_every_public_name_has_an_entry_and_every_entry_is_public() -> None:
    entries = [name for name, _ in ENTRY.findall(page())]
    assert sorted(entries) == sorted(dir(malt_data))
    assert set(re.findall(r"malt_data\.(\w+)", page())) <= set(dir(malt_data))


@pytest.mark.parametrize(
    ("name", "shown"), [(name, shown) for name, shown in ENTRY.findall(page()) if shown]
)
def test_signatures_are_the_real_ones(name: str, shown: str) -> None:
    (made,) = ast.parse(f"def shown{' '.join(shown.split())}: ...").body
    assert isinstance(made, ast.FunctionDef)
    found = getattr(malt_data, name)
    if made.args.kwarg is not None and made.args.kwarg.arg == "settings":
        assert inspect.isclass(found)  # its settings are told in words
        return
    real = inspect.signature(found).parameters.values()
    named = [p for p in real if p.kind is not inspect.Parameter.VAR_KEYWORD]
    arguments = made.args
    assert {one.arg for one in arguments.args + arguments.kwonlyargs} == {p.name for p in named}
    given = [None] * (len(arguments.args) - len(arguments.defaults)) + arguments.defaults
    defaults = dict(zip([one.arg for one in arguments.args], given, strict=True)) | dict(
        zip([one.arg for one in arguments.kwonlyargs], arguments.kw_defaults, strict=True)
    )
    for parameter in named:
        shown_default = defaults[parameter.name]
        assert (shown_default is None) == (parameter.default is inspect.Parameter.empty)
        if isinstance(shown_default, ast.Constant) and not callable(parameter.default):
            assert shown_default.value == parameter.default
    if not inspect.isclass(found):  # pydantic's are all by name
        by_name = [p.name for p in named if p.kind is inspect.Parameter.KEYWORD_ONLY]
        assert [one.arg for one in arguments.kwonlyargs] == by_name
        assert [one.arg for one in arguments.args] == [
            p.name for p in named if p.name not in by_name
        ]


def checked(code: str) -> str:
    """Return the code with an assertion for each value that it shows."""
    found = []
    for line in code.splitlines():
        expression, shows, value = line.partition("  # → ")
        found.append(f"assert repr(it := ({expression})) == {value!r}, it" if shows else line)
    return "\n".join(found)


def test_the_examples_do_what_they_show(tmp_path: Path) -> None:
    blocks = BLOCK.findall(page())
    assert len(blocks) == page().count("```python\n")
    assert sum(bool(unrun) for unrun, _ in blocks) == 2
    code = "\n".join(checked(block) for unrun, block in blocks if not unrun)
    (questions,) = re.findall(r"^```json\n(.*?)^```$", page(), re.DOTALL | re.MULTILINE)
    (tmp_path / "mine.jsonl").write_text(questions, "utf-8")
    with Hub(tmp_path / "hub") as hub, OpenAIServer(answer, models=["Qwen/Qwen3-4B"]) as server:
        hub.tokens["hf_me"] = User("me", write=True)
        assert ADDRESS in code
        run = subprocess.run(
            [sys.executable, "-c", code.replace(ADDRESS, server.base_url)],
            cwd=tmp_path, env=hub.environment(tmp_path / "home", token="hf_me"),
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    assert run.returncode == 0, run.stderr
