"""Shared by the tests of evaluations: a model with random answers, questions, the command."""

import json
import random
from pathlib import Path
from typing import Any

from openai_server import OpenAIServer
from shell import malt as run_malt


def answer(messages: list[dict[str, str]], seed: int | None, sample: int) -> str:
    """Answer right, wrong or not at all, determined by chat and seed."""
    source = random.Random(f"{messages[-1]['content']}{seed}")
    number = source.choice([3, 3, 4, 5])
    return source.choice([f"Final Answer: {number}"] * 4 + ["I do not know."])


def write_questions(path: Path) -> Path:
    """Write twelve questions whose gold answer is 3."""
    lines = [{"question": f"What is {i} + {3 - i}?", "answer": "3"} for i in range(12)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def malt(
    server: OpenAIServer, *words: object, code: int = 0, model: str | None = "m"
) -> tuple[Any, str]:
    """Run `malt-data eval` against `server`; return (its JSON, its stderr)."""
    named = [] if model is None else ["--model", model]
    engine = ["--engine", "openai", "--base-url", server.base_url, *named]
    run = run_malt("eval", *engine, *words, "--json")
    assert "Traceback" not in run.stderr, run.stderr
    assert run.returncode == code, run.stderr
    return (json.loads(run.stdout) if run.stdout else None), run.stderr


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a table without columns that differ between runs."""
    return [{key: row[key] for key in row if key != "seconds"} for row in rows]
