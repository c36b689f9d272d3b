"""`check` on the real chat template: every problem is provoked, every fact recounted."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from synthetic import ALL, make_forest

from malt_data.cli import main
from malt_data.engines.embedded import EMBEDDED
from malt_data.errors import ExportError
from malt_data.exporters.check import check as check_rows
from malt_data.exporters.check import gold_leaks
from malt_data.exporters.export import export
from malt_data.exporters.fit import Fit, load_fit
from malt_data.exporters.selection import Selection
from malt_data.forests.forest import Forest
from malt_data.schemas.exports import config_named

pytest.importorskip("transformers")

pytestmark = pytest.mark.model

ASKS = {"system": "You check.", "user": "{question}\n{initial_answer}"}
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
THINKS = "{% if add_generation_prompt %}{{ '<think>' }}{% endif %}"
NOT_A_PREFIX = "that is not a prefix of prompt and completion"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_fit(EMBEDDED).tokenizer


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    """A forest whose verifier has a system message."""
    folder = tmp_path_factory.mktemp("forest") / "f"
    return make_forest(folder, trees=16, n=(2, 2, 3), prompts={"numeric": {"verifier": ASKS}})


def check(
    folder: Path, tokenizer: Any, limit: int | None = None, leaks: set[str] | None = None
) -> dict[str, Any]:
    return check_rows(folder, Fit(tokenizer, limit), leaks or set())


def templated(tokenizer: Any, template: str) -> Any:
    """Return the tokenizer with another chat template."""
    other = copy.copy(tokenizer)
    other.chat_template = template
    return other


def write(forest: Forest, name: str, out: Path, **selection: Any) -> Path:
    export(forest, config_named(name), Selection(**{"validation": 0} | selection), out)
    return out


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [
        row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def retell(forest: Forest, texts: dict[str, str]) -> None:
    """Replace the text of nodes whose id ends in a key."""
    for path in forest.parts.paths():
        table = pq.read_table(path, partitioning=None)
        found = [
            next((text for end, text in texts.items() if row["node_id"].endswith(end)), row["text"])
            for row in table.to_pylist()
        ]
        place = table.schema.get_field_index("text")
        pq.write_table(table.set_column(place, table.schema.field(place), pa.array(found)), path)


def ask(forest: Forest, rows: list[dict[str, Any]]) -> list[str]:
    """Replace columns of the first questions; return their ids."""
    path = forest.folder / "questions.parquet"
    table = pq.read_table(path)
    changed = table.to_pylist()
    for row, columns in zip(changed, rows, strict=False):
        row |= columns
    pq.write_table(pa.Table.from_pylist(changed, table.schema), path)
    return [row["question_id"] for row in changed[: len(rows)]]


# --- facts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.name)
def test_the_facts_match_an_independent_count(
    forest: Forest, tokenizer: Any, tmp_path: Path, config: Any
) -> None:
    rows = rows_of(write(forest, config.name, tmp_path / "out"))
    sides = ("chosen", "rejected") if config.format.name == "dpo" else ("completion",)
    prompts: list[int] = []
    texts: dict[str, list[int]] = {side: [] for side in sides}
    for row in rows:
        start = tokenizer.apply_chat_template(
            row["prompt"], tokenize=False, add_generation_prompt=True
        )
        prompts.append(count(tokenizer, start))
        for side in sides:
            whole = start + row[side][0]["content"] + "<|im_end|>\n"
            texts[side].append(count(tokenizer, whole) - prompts[-1])
    longest = [prompt + max(more) for prompt, *more in zip(prompts, *texts.values(), strict=True)]
    limit = sorted(longest)[len(longest) // 2]
    facts = check(tmp_path / "out", tokenizer, limit)
    assert facts["rows"] == len(rows) > 0
    assert facts["max_length"] == limit
    assert facts["too_long"] == sum(length > limit for length in longest)
    assert facts["text_tokens"].keys() == set(sides)
    for name, lengths in (texts | {"prompt": prompts}).items():
        marks = facts["prompt_tokens"] if name == "prompt" else facts["text_tokens"][name]
        assert marks["most"] == max(lengths)
        assert sum(length < marks["median"] for length in lengths) <= len(lengths) / 2
        assert sum(length > marks["median"] for length in lengths) <= len(lengths) / 2
        assert sum(length < marks["p95"] for length in lengths) <= 0.95 * len(lengths)
        assert sum(length > marks["p95"] for length in lengths) <= 0.05 * len(lengths) + 1
    if config.format.name == "dpo":
        pairs = list(zip(texts["chosen"], texts["rejected"], strict=True))
        points = sum(1 if a > b else 0.5 if a == b else 0 for a, b in pairs)
        assert facts["chosen_longer"] == pytest.approx(points / len(pairs))
    else:
        assert facts["chosen_longer"] is None
    assert check(tmp_path / "out", tokenizer)["problems"] == []
    assert load_fit(EMBEDDED, 10**6).limit == 8192  # the model's context


def count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


# --- problems -------------------------------------------------------------------------------------


def problem(facts: dict[str, Any]) -> str:
    (only,) = facts["problems"]
    return str(only)


def test_a_template_that_rejects_system_messages(
    forest: Forest, tokenizer: Any, tmp_path: Path
) -> None:
    refusing = templated(tokenizer, NO_SYSTEM + tokenizer.chat_template)
    folder = write(forest, "verifier_dpo", tmp_path / "v")
    rows = rows_of(folder)
    facts = check(folder, refusing)
    assert problem(facts) == (
        f"verifier_dpo: {len(rows)} rows are rejected by the chat template "
        f"({rows[0]['chosen_id']}). Leave them out: --tokenizer NAME."
    )
    assert facts["rows"] == len(rows)
    assert facts["refused_by_template"] == len(rows)
    assert (facts["prompt_tokens"], facts["chosen_longer"]) == ({}, None)
    assert check(write(forest, "refiner_dpo", tmp_path / "r"), refusing)["problems"] == []


@pytest.mark.parametrize("name", ["generator_sft", "refiner_dpo", "verifier_kto"])
def test_a_template_whose_prompt_is_not_a_prefix(
    forest: Forest, tokenizer: Any, tmp_path: Path, name: str
) -> None:
    folder = write(forest, name, tmp_path / "out")
    thinking = templated(tokenizer, tokenizer.chat_template + THINKS)
    message = problem(check(folder, thinking))
    assert message.startswith(f"{name}: {len(rows_of(folder))} rows have a prompt {NOT_A_PREFIX}")


def test_a_text_that_merges_with_the_prompt_is_reported_for_the_real_template(
    tokenizer: Any, tmp_path: Path
) -> None:
    forest = make_forest(tmp_path / "f", trees=3)
    retell(forest, {"g1": "\n\nSo."})
    folder = write(forest, "generator_value", tmp_path / "out")
    message = problem(check(folder, tokenizer))
    assert "generator_value: 3 rows" in message
    assert NOT_A_PREFIX in message
    assert "/g1)" in message


def test_a_row_is_too_long_from_the_first_token_above_the_limit(
    forest: Forest, tokenizer: Any, tmp_path: Path
) -> None:
    folder = write(forest, "refiner_sft", tmp_path / "out")
    lengths = sorted(
        count(
            tokenizer,
            tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False),
        )
        for row in rows_of(folder)
    )
    assert lengths[0] < lengths[-1]
    assert check(folder, tokenizer, lengths[-1])["problems"] == []
    message = problem(check(folder, tokenizer, lengths[-1] - 1))
    assert f"{lengths.count(lengths[-1])} rows have more than {lengths[-1] - 1} tokens" in message
    assert f" {len(lengths)} rows" in problem(check(folder, tokenizer, lengths[0] - 1))


def test_a_pair_with_identical_texts(tokenizer: Any, tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=10, n=(3, 3, 3))
    folder = write(
        forest, "generator_dpo", tmp_path / "keep", keep_identical=True, keep_truncated=True
    )
    alike = [row for row in rows_of(folder) if row["chosen"] == row["rejected"]]
    assert alike
    message = problem(check(folder, tokenizer))
    assert message.startswith(f"generator_dpo: {len(alike)} pairs have the same text on both sides")
    assert alike[0]["chosen_id"] in message
    assert check(write(forest, "generator_dpo", tmp_path / "drop"), tokenizer)["problems"] == []


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_text_to_learn(tokenizer: Any, tmp_path: Path, text: str) -> None:
    forest = make_forest(tmp_path / "f", trees=3)
    retell(forest, {"v2": text})
    facts = check(write(forest, "verifier_value", tmp_path / "out"), tokenizer)
    message = facts["problems"][0]  # blanks merge with the end of the prompt too
    assert message.startswith("verifier_value: 6 rows have an empty text to learn")


def test_an_empty_rejected_text_is_allowed(tokenizer: Any, tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=3, n=(2, 2, 2))
    folder = write(forest, "refiner_dpo", tmp_path / "out", keep_truncated=True)
    rejected = rows_of(folder)[0]["rejected_id"]
    retell(forest, {rejected: ""})
    folder = write(forest, "refiner_dpo", tmp_path / "out", keep_truncated=True)
    assert "" in [row["rejected"][0]["content"] for row in rows_of(folder)]
    assert check(folder, tokenizer)["problems"] == []


def test_an_empty_export_says_why(tokenizer: Any, tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=4, n=(1, 2, 3))
    folder = write(forest, "generator_dpo", tmp_path / "none")
    facts = check(folder, tokenizer)
    assert problem(facts) == "generator_dpo: no rows (left out: nothing)."
    assert (facts["rows"], facts["prompt_tokens"], facts["chosen_longer"]) == (0, {}, None)
    pairs = len(rows_of(write(forest, "refiner_dpo", tmp_path / "all", keep_truncated=True)))
    assert pairs
    for path in forest.parts.paths():
        table = pq.read_table(path, partitioning=None)
        place = table.schema.get_field_index("finish_reason")
        cut = pa.array(["length"] * table.num_rows).cast(table.schema.field(place).type)
        pq.write_table(table.set_column(place, table.schema.field(place), cut), path)
    message = problem(check(write(forest, "refiner_dpo", tmp_path / "cut"), tokenizer))
    assert message == f"refiner_dpo: no rows (left out: {pairs} truncated)."


# --- leaks ----------------------------------------------------------------------------------------

SOLUTION = "Six times seven is forty-two, so the answer must be 42."


def test_questions_that_reveal_their_gold_answer(tokenizer: Any, tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=10, n=(1, 1, 1))
    meta = json.dumps({"solution": SOLUTION})
    ids = ask(
        forest,
        [
            {"question": "What is 6 * 7?\n#### 42", "gold": "42"},
            {"question": f"What is 6 * 7? {SOLUTION} Now you.", "gold": "41", "meta": meta},
            {"question": "Why is it so?\nFinal Answer: 42.0", "gold": "42"},
            {"question": "What is 6 * 7?\n#### 41", "gold": "42"},
            {"question": "42 eggs and 0 eggs: how many eggs?", "gold": "42"},
            {"question": "What is 6 * 7?", "gold": "42", "meta": meta},
            {"question": "So 42 it is?", "gold": "42", "meta": json.dumps({"solution": "42"})},
            {"question": "6 * 7", "gold": "42"},
            {"question": "$2^3$", "gold": "8", "kind": "math"},
        ],
    )
    assert gold_leaks(forest) == set(ids[:3])
    folder = write(forest, "generator_value", tmp_path / "out")
    message = problem(check(folder, tokenizer, leaks=gold_leaks(forest)))
    assert message.startswith("generator_value: 3 rows have a prompt that reveals the gold answer")
    assert any(f"({name}/g0)" in message for name in ids[:3])


# --- the tokenizer and the command ----------------------------------------------------------------


def test_a_missing_tokenizer_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "empty"):
        with pytest.raises(ExportError) as raised:
            load_fit(str(tmp_path / name))
        message = str(raised.value)
        assert message.startswith(f"The tokenizer {tmp_path / name} could not be loaded (")
        assert message.endswith("--tokenizer NAME")
        assert "\n" not in message


def test_chats_cannot_be_checked_without_a_chat_template(
    forest: Forest, tokenizer: Any, tmp_path: Path
) -> None:
    templated(tokenizer, "").save_pretrained(tmp_path / "base")
    base = load_fit(str(tmp_path / "base")).tokenizer
    with pytest.raises(ExportError, match=r"base has no chat template.* plain = true"):
        check(write(forest, "verifier_sft", tmp_path / "out"), base)


def malt(*arguments: object) -> Result:
    runner = CliRunner(env={"COLUMNS": "200"})
    return runner.invoke(main, [str(argument) for argument in arguments])


def test_a_valid_export_exits_with_0_and_prints_facts(forest: Forest, tokenizer: Any) -> None:
    chosen = ["--role", "refiner", "--format", "dpo", "--tokenizer", EMBEDDED]
    run = malt("export", forest.folder, *chosen, "--check")
    assert run.exit_code == 0, run.output
    assert "Error" not in run.stderr
    facts = check(forest.folder / "exports" / "refiner_dpo", tokenizer, 8192)
    median, most = facts["prompt_tokens"]["median"], facts["prompt_tokens"]["most"]
    assert f"  prompt tokens: median {median}, p95 " in run.stdout
    assert f", most {most}\n" in run.stdout
    assert "longer than 8192 tokens: 0\n" in run.stdout
    assert f"chosen is longer than rejected in {100 * facts['chosen_longer']:.0f} %" in run.stdout
    result = json.loads(malt("export", forest.folder, *chosen, "--check", "--json").stdout)
    assert result["refiner_dpo"]["check"] == facts


def test_an_export_that_would_break_training_is_a_one_line_error(
    forest: Forest, tokenizer: Any, tmp_path: Path
) -> None:
    templated(tokenizer, NO_SYSTEM + tokenizer.chat_template).save_pretrained(tmp_path / "refusing")
    call = [
        "--check",
        "--tokenizer",
        tmp_path / "refusing",
        "--max-length",
        5,
        "--push",
        "me/trees",
    ]
    run = malt("export", forest.folder, *call)
    assert run.exit_code == 1
    assert isinstance(run.exception, SystemExit)  # no traceback
    (error,) = [line for line in run.stderr.splitlines() if "Error" in line]
    assert error.startswith("Error: Training on these exports would fail: generator_sft: ")
    for name in ("generator_sft", "verifier_sft", "verifier_dpo", "refiner_sft", "refiner_dpo"):
        lost = "refused_by_template" if name.startswith("verifier") else "too_long"
        (dropped,) = re.findall(rf"{name}: no rows \(left out: (.*?)\)\.", error)
        assert re.search(rf"\b[1-9]\d* {lost}\b", dropped)
    assert "me/trees" not in run.stdout + run.stderr  # nothing is pushed


def test_check_only_reports_and_tokenizer_drops_rows(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=4, model=EMBEDDED)
    retell(forest, {"g1": "\n\nSo."})
    chosen = ["--role", "generator", "--format", "value"]
    run = malt("export", forest.folder, *chosen, "--check")
    assert run.exit_code == 1
    assert f"4 rows have a prompt {NOT_A_PREFIX}" in run.stderr
    assert len(rows_of(forest.folder / "exports" / "generator_value")) == 8
    run = malt("export", forest.folder, *chosen, "--check", "--tokenizer", EMBEDDED)
    assert run.exit_code == 0, run.stderr
    assert "4 left out: not_a_prefix (" in run.stdout
    assert len(rows_of(forest.folder / "exports" / "generator_value")) == 4


def test_a_leak_and_a_missing_tokenizer_are_one_line_errors(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=4)
    ask(forest, [{"question": "What is 6 * 7?\n#### 42", "gold": "42"}] * 4)
    chosen = [forest.folder, "--role", "refiner", "--format", "value", "--check", "--tokenizer"]
    for name, message in {
        EMBEDDED: "refiner_value: 48 rows have a prompt that reveals the gold answer",
        str(tmp_path / "nowhere"): "nowhere could not be loaded",
    }.items():
        run = malt("export", *chosen, name)
        assert run.exit_code == 1
        assert isinstance(run.exception, SystemExit)  # no traceback
        (error,) = [line for line in run.stderr.splitlines() if "Error" in line]
        assert message in error


def test_an_export_for_another_trainer_is_not_checked(
    forest: Forest, tokenizer: Any, tmp_path: Path
) -> None:
    export(forest, "refiner_sft", out=tmp_path / "lines", layout="openai")
    with pytest.raises(ExportError, match="is in the layout of openai"):
        check(tmp_path / "lines", tokenizer)
