"""Exported rows on the real chat template: what a trainer would make of them, before the hours.

TRL renders prompt and prompt + completion and learns on what the second has more. So the first
must be a prefix of the second, token for token; what is longer than the trainer's `max_length` is
cut; and a row whose prompt fills it teaches nothing.

    facts = check(Path("forest/exports/refiner_dpo"), tokenizer, 1024, golds(forest))
    facts["problems"]    # sentences; any of them would break training
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from malt_data.errors import ExportError
from malt_data.exporters.export import read_report
from malt_data.graders import Grader, extract_answer

if TYPE_CHECKING:
    from malt_data.forests.forest import Forest

MAX_LENGTH = 1024
"""Tokens of prompt and completion that TRL keeps by default."""

_BATCH = 256
_SHORTEST_SOLUTION = 20
_SENTENCES = {
    "template": "{n} rows that the chat template refuses ({example}).",
    "prefix": "{n} rows whose prompt is no prefix of prompt and completion under the chat "
    "template ({example}): the loss would be taken on the wrong tokens.",
    "no_room": "{n} rows whose prompt alone fills the {limit} tokens ({example}): raise "
    "max_length, or nothing is learnt from them.",
    "identical": "{n} pairs with the same text on both sides ({example}): export without "
    "keep_identical.",
    "leak": "{n} rows whose prompt tells the gold answer ({example}): mend the questions.",
    "empty": "{n} rows with an empty text to learn ({example}).",
}


def load_tokenizer(name: str) -> Any:
    """Return a tokenizer with a chat template; raise ExportError where there is none."""
    try:
        import transformers

        from malt_data.engines.embedded import resolve
    except ImportError as error:
        raise ExportError(
            f"--check needs transformers ({error}): pip install 'malt-data[local]'"
        ) from None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(resolve(name, lambda _: None))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".: ")
        raise ExportError(
            f"The tokenizer {name} could not be loaded ({reason}). Name a folder that holds one, "
            "or a model on the Hub: --tokenizer NAME"
        ) from None
    if not tokenizer.chat_template:
        raise ExportError(f"{name} has no chat template: name an instruction-tuned tokenizer.")
    return tokenizer


def gold_leaks(forest: "Forest") -> set[str]:
    """Return the questions whose own text already gives the gold answer away.

    That is: an answer can be extracted from it as from a completion, and it is the gold, or the
    full gold solution stands in it. Every role's prompt holds the question.
    """
    import json

    found = set()
    with Grader() as grader:
        for row in forest.questions().collect(engine="streaming").iter_rows(named=True):
            solution = str(json.loads(row["meta"]).get("solution") or "")
            told = len(solution) >= _SHORTEST_SOLUTION and solution in row["question"]
            # Behind prose, a question that is only an expression ("6 * 7") is no answer to itself.
            asked = f"The question:\n{row['question']}"
            answer = extract_answer(asked, row["kind"], row["choices"])
            if not told and answer is not None:
                told = grader.grade(answer, row["gold"], row["kind"], row["choices"]) == "right"
            if told:
                found.add(row["question_id"])
    return found


def check(
    folder: Path, tokenizer: Any, max_length: int = MAX_LENGTH, leaks: set[str] | None = None
) -> dict[str, Any]:
    """Return facts about the rows in `folder`: lengths in tokens, cuts, length bias, problems.

    leaks: ids of questions that give their gold away, see `gold_leaks`.
    """
    report = read_report(folder)
    seen = _Seen(tokenizer, max_length, leaks or set())
    for row in _rows(folder):
        seen.add(row)
    problems = [
        f"{report.config}: "
        + _SENTENCES[name].format(n=number, example=seen.examples[name], limit=max_length)
        for name, number in seen.problems.items()
    ]
    if not seen.rows:
        dropped = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
        problems.append(f"{report.config}: no rows at all (left out: {dropped or 'nothing'}).")
    return {
        "rows": seen.rows,
        "max_length": max_length,
        "prompt_tokens": _quantiles(seen.lengths["prompt"]),
        "text_tokens": {
            name: _quantiles(found) for name, found in seen.lengths.items() if name != "prompt"
        },
        "would_be_cut": seen.cut,
        "chosen_longer": _share_longer(seen.lengths),
        "problems": problems,
    }


class _Seen:
    """What was seen of the rows so far."""

    def __init__(self, tokenizer: Any, max_length: int, leaks: set[str]) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._leaks = leaks
        self.rows = 0
        self.cut = 0
        self.lengths: dict[str, list[int]] = {"prompt": []}
        self.problems: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        name = row.get("node_id") or row["chosen_id"]
        texts = {key: row[key] for key in ("completion", "chosen", "rejected") if key in row}
        for problem in self._problems(row, texts):
            self.problems[problem] += 1
            self.examples.setdefault(problem, name)

    def _problems(self, row: Mapping[str, Any], texts: Mapping[str, Any]) -> Iterator[str]:
        if row["question_id"] in self._leaks:
            yield "leak"
        if "chosen" in texts and texts["chosen"] == texts["rejected"]:
            yield "identical"
        if not next(iter(texts.values()))[0]["content"].strip():
            yield "empty"
        try:
            prompt = self._tokens(row["prompt"], add_generation_prompt=True)
            whole = {key: self._tokens(row["prompt"] + text) for key, text in texts.items()}
        except Exception:  # noqa: BLE001 - a template may raise anything
            yield "template"
            return
        self.lengths["prompt"].append(len(prompt))
        for key, tokens in whole.items():
            self.lengths.setdefault(key, []).append(len(tokens) - len(prompt))
        if any(tokens[: len(prompt)] != prompt for tokens in whole.values()):
            yield "prefix"
        if len(prompt) >= self._max_length:
            yield "no_room"
        self.cut += max(map(len, whole.values())) > self._max_length

    def _tokens(self, messages: list[dict[str, str]], **more: Any) -> list[int]:
        found: list[int] = self._tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=False, **more
        )
        return found


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                yield from batch.to_pylist()


def _quantiles(lengths: list[int]) -> dict[str, int]:
    ordered = sorted(lengths)
    if not ordered:
        return {}
    marks = {"median": 0.5, "p95": 0.95, "most": 1.0}
    return {name: ordered[round(mark * (len(ordered) - 1))] for name, mark in marks.items()}


def _share_longer(lengths: dict[str, list[int]]) -> float | None:
    """Return the share of pairs whose chosen text is the longer one; ties count half."""
    pairs = list(zip(lengths.get("chosen", ()), lengths.get("rejected", ()), strict=True))
    if not pairs:
        return None
    return sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)
