"""Screen tasks on training questions: what does the untrained model do in each role?

    python docs/results/natural/screen.py larger shopping      # on a GPU or two cores
    python docs/results/natural/screen.py --engine vllm        # faster, where vLLM is installed
    python docs/results/natural/screen.py --questions 80 --n 3

Grows small trees at T = 1 and prints, for each task, how often the first and the last turn are
right, the share of the commonest first answer, how often the verifier accepts right and wrong
answers, and how often wrong first answers are repaired or copied, and right ones kept. For tasks
with two options also the odds: how often the first one is the likelier, how often the likelier is
right, and with which probability the odds are better where the first is right than where it is not
(AUC). Odds that know more than the choice are a prior that hides a signal.
"""

import argparse
import json
import re
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import numpy as np  # noqa: E402
from questions import TASKS, YES_OR_NO, rows  # noqa: E402
from scipy.stats import rankdata  # noqa: E402

from malt_data import BuildSpec, build_forest, open_forest  # noqa: E402
from malt_data.engines.embedded import EMBEDDED, resolve  # noqa: E402
from malt_data.forests.forest import Forest  # noqa: E402
from malt_data.schemas.pipeline import ChatTemplate  # noqa: E402

TURNS = """
WITH firsts AS (
    SELECT text, coalesce(correct, false) AS was_right FROM nodes WHERE role = 'generator'
),
said AS (SELECT count(*) AS count FROM firsts GROUP BY trim(text))
SELECT
    (SELECT avg(was_right::INT) FROM firsts) AS first,
    (SELECT avg(coalesce(correct, false)::INT) FROM nodes WHERE role = 'refiner') AS last,
    (SELECT max(count) / sum(count) FROM said) AS commonest,
    true_acceptances / (true_acceptances + false_rejections) AS accepts_right,
    false_acceptances / (false_acceptances + true_rejections) AS accepts_wrong
FROM verdicts
"""
PATHS = """
SELECT
    avg((reward > 0.5)::INT) FILTER (NOT was_right) AS repaired,
    avg((trim(texts[1]) = trim(texts[3]))::INT) FILTER (NOT was_right) AS copied,
    avg((reward > 0.5)::INT) FILTER (was_right) AS kept
FROM (
    SELECT trajectories.*, coalesce(correct, false) AS was_right
    FROM trajectories JOIN nodes ON node_id = node_ids[1]
)
"""


def screen(task: str, questions: int, n: int, engine: str) -> dict[str, float]:
    """Return the facts of one task."""
    asked = rows(task)[:questions]
    with tempfile.TemporaryDirectory() as folder:
        forest = grow(task, asked, n, engine, Path(folder))
        facts = forest.sql(TURNS).row(0, named=True) | forest.sql(PATHS).row(0, named=True)
    return facts | odds(task, asked)


def grow(task: str, asked: list[dict[str, str]], n: int, engine: str, folder: Path) -> Forest:
    file = folder / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, asked)), "utf-8")
    spec = BuildSpec(
        questions=str(file),
        n=n,
        temperature=1.0,
        max_tokens=24,
        concurrency=96,
        engine=engine,
        chat_template=ChatTemplate(plain=True),
        **({"grader": f"{HERE / 'grade.py'}:grade"} if task in YES_OR_NO else {}),
    )
    build_forest(spec, folder / "forest", prompts_file=HERE / "prompts" / f"{task}.toml")
    return open_forest(folder / "forest")


def odds(task: str, asked: list[dict[str, str]]) -> dict[str, float]:
    """Return how often the likelier of two options is right, and the AUC of their odds."""
    options = [_options(task, row["question"]) for row in asked]
    if None in options:
        return {}
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = resolve(EMBEDDED)
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
    kind = "yesno" if task in YES_OR_NO else "numeric"
    prompts = tomllib.loads((HERE / "prompts" / f"{task}.toml").read_text("utf-8"))
    template = prompts[kind]["generator"]["user"]
    found = []
    with torch.inference_mode():
        for row, pair in zip(asked, options, strict=True):
            prompt = tokenizer(template.replace("{question}", row["question"])).input_ids
            logs = [_log(model, tokenizer, prompt, f" {option}\n") for option in pair or ()]
            found.append((logs[0] - logs[1], row["answer"] == (pair or ("",))[0]))
    apart, first = np.array([a for a, _ in found]), np.array([f for _, f in found])
    ranks = rankdata(apart)
    ones, others = int(first.sum()), int((~first).sum())
    auc = (ranks[first].sum() - ones * (ones + 1) / 2) / max(1, ones * others)
    return {
        "names_first": float((apart > 0).mean()),
        "likelier_right": float(((apart > 0) == first).mean()),
        "auc": float(auc),
    }


def _options(task: str, question: str) -> tuple[str, str] | None:
    if task in YES_OR_NO:
        return "Yes", "No"
    found = re.search(r"larger, (\d+) or (\d+)", question)
    return (found[1], found[2]) if found else None


def _log(model: Any, tokenizer: Any, prompt: list[int], text: str) -> float:
    """Return the log-probability of a text after a prompt."""
    import torch

    said = tokenizer(text, add_special_tokens=False).input_ids
    logits = model(torch.tensor([prompt + said])).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1)[range(len(said)), said].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--n", type=int, default=2)
    parser.add_argument("--engine", default="transformers")
    options = parser.parse_args()
    for task in options.tasks:
        facts = screen(task, options.questions, options.n, options.engine)
        known = (f"{name} {value:.2f}" for name, value in facts.items() if value is not None)
        sys.stdout.write(" ".join([task, *known]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
