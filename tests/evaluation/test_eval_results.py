"""The file for a model's repo, read by the Hub's own client."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from malt_data.errors import EvalError
from malt_data.evaluation.eval_results import eval_results
from malt_data.evaluation.results import open_results

STORED = Path(__file__).parents[1] / "schemas" / "eval_1"


def test_the_hub_client_reads_the_accuracy_of_a_setting() -> None:
    from huggingface_hub._eval_results import parse_eval_result_entries

    results = open_results(STORED)
    text = eval_results(results, "ma+mv", "openai/gsm8k", "main")
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    chosen = results.predictions().to_dicts()
    right = [row["correct"] for row in chosen if row["setting"] == "ma+mv"]
    assert (entry.dataset_id, entry.task_id) == ("openai/gsm8k", "main")
    assert entry.value == pytest.approx(100 * sum(map(bool, right)) / len(right), abs=0.01)
    assert entry.date is not None
    assert "ma+mv" in str(entry.notes)


def test_a_setting_that_was_not_evaluated_is_an_error() -> None:
    with pytest.raises(EvalError, match="nope"):
        eval_results(open_results(STORED), "nope", "openai/gsm8k", "main")


def test_a_run_that_was_killed_has_no_date(tmp_path: Path) -> None:
    shutil.copytree(STORED, tmp_path / "results")
    path = tmp_path / "results" / "eval.json"
    manifest = json.loads(path.read_text())
    started = manifest["runs"][-1]["started"]
    for runs, date in (([*manifest["runs"], {"python": "3"}], started), ([None], None)):
        path.write_text(json.dumps(manifest | {"runs": runs}))
        text = eval_results(open_results(tmp_path / "results"), "ma+mv", "openai/gsm8k", "main")
        assert yaml.safe_load(text)[0].get("date") == date
