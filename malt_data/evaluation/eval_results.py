"""The accuracy of a setting as the Hub reads it from a model's repo: `.eval_results/*.yaml`.

    text = eval_results(open_results("results"), "sa", "openai/gsm8k", "main")
    Path("gsm8k.yaml").write_text(text)
    # hf upload me/model gsm8k.yaml .eval_results/gsm8k.yaml

The format (huggingface.co/docs/hub/eval-results) gives a value per benchmark and model, so it is
the user who decides which model of a team the score of a setting belongs to.
"""

from malt_data.errors import EvalError
from malt_data.evaluation.results import Results
from malt_data.evaluation.tables import accuracy_table, require_setting


def eval_results(results: Results, setting: str, benchmark: str, task: str) -> str:
    """Return the YAML of one entry: the setting's mean accuracy in percent.

    benchmark: a dataset on the Hub that is a benchmark there; task: its id in the `eval.yaml` of
    that dataset. The notes say the setting, the questions and the seeds. Raises EvalError if the
    setting was not evaluated.
    """
    import yaml

    require_setting(setting, results.settings)
    rows = [row for row in accuracy_table(results) if row["setting"] == setting]
    if not rows:
        raise EvalError(
            f"{results.folder} has no predictions of {setting} yet. Finish it: malt-data eval"
        )
    row = rows[0]
    # A run that was killed has no time.
    started = [run["started"] for run in results.manifest["runs"] if run and "started" in run]
    entry = {
        "dataset": {"id": benchmark, "task_id": task},
        "value": round(100 * row["mean"], 2),
        **({"date": started[-1]} if started else {}),
        "notes": f"malt-data, setting {setting}: mean of {row['seeds']} seeds on "
        f"{row['questions']} questions of {results.manifest['questions']['split']}",
    }
    return str(yaml.safe_dump([entry], sort_keys=False, allow_unicode=True))
