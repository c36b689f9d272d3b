"""The page of an evaluation: the paper's tables and figures, and where two settings differ.

    page, shown = results_page(open_results("results"))
    write_page(Path("report.html"), page)

The tables are of all questions; transcripts are kept of those with the smallest ids, up to a number
of bytes that browsers open at once.
"""

from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow.compute as pc

from malt_data.errors import EvalError
from malt_data.evaluation.parts import pipeline_of
from malt_data.evaluation.results import Results
from malt_data.evaluation.tables import accuracy_table, require_setting
from malt_data.report.page import BUDGET, OnProgress, Page, fill, pack
from malt_data.report.sections import listed, query, section, table

_QUESTIONS_A_BLOCK = 32
TURN = ("role", "adapter", "text", "thinking", "answer", "verdict", "finish_reason")
"""What a page knows of a completion, in this order."""
_PLACE = ["question_id", "setting", "seed", "pass", "turn"]


def results_page(
    results: Results,
    budget: int = BUDGET,
    title: str | None = None,
    against: str | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> tuple[Page, int]:
    """Return the page of an evaluation, and of how many questions the transcripts fit the budget.

    against: the setting that the others are compared with; by default the last, as the trained
    settings are usually named last. Raises EvalError if nothing has been evaluated yet.
    """
    played = [row["setting"] for row in accuracy_table(results)]
    if not played:
        raise EvalError(f"{results.folder} has no predictions yet. Run the evaluation again.")
    against = against or played[-1]
    require_setting(against, played)
    index = results.sql("SELECT question_id AS id, question, gold FROM questions ORDER BY id")
    ids = index["id"].to_list()
    blocks, shown = fill(
        _transcripts(results, ids), budget, lambda done: on_progress(done, len(ids))
    )
    facts = {
        "tables": _tables(results, against),
        "settings": listed(_spec(results)),
        "roles": [turn.role for turn in pipeline_of(results.manifest).turns],
        "played": played,
        "against": against,
        "questions_a_block": _QUESTIONS_A_BLOCK,
        "sample": {"shown": shown, "questions": len(index), "budget": budget},
    }
    columns: dict[str, Any] = {name: index[name].to_list() for name in index.columns}
    columns["outcomes"] = _outcomes(results, ids, played)
    name = title or results.folder.resolve().name
    return Page("results", name, facts, [pack(columns), *blocks], len(index)), shown


def _tables(results: Results, against: str) -> list[dict[str, Any]]:
    accuracy = pl.DataFrame(accuracy_table(results, against)).drop("std_population")
    accuracy = accuracy.rename({"unanswered": "unanswered_share"})
    scalars = [name for name, kind in accuracy.schema.items() if not kind.is_nested()]
    return [
        table("accuracy", "Accuracy", accuracy.select(scalars)),
        section(results, "turns", "Accuracy after each turn", "FROM turn_accuracy"),
        section(results, "flips", "Answers that change", "FROM flips"),
        section(results, "votes", "Accuracy by number of votes", "FROM votes"),
        section(results, "verdicts", "Verdicts", "FROM verdicts"),
        section(results, "cost", "Cost", "FROM cost"),
    ]


def _spec(results: Results) -> dict[str, Any]:
    turns = pipeline_of(results.manifest).turns
    spec = results.manifest["spec"] | {"pipeline": " → ".join(turn.role for turn in turns)}
    return {name: value for name, value in spec.items() if name != "prompts"}


def _outcomes(results: Results, ids: list[str], played: list[str]) -> dict[str, Any]:
    """Return setting → per question [right, seeds, answer], in the order of `ids`; null: none."""
    rows = results.sql(query("outcomes")).rows()
    found = {(setting, name): list(facts) for setting, name, *facts in rows}
    return {setting: [found.get((setting, name)) for name in ids] for setting in played}


def _transcripts(results: Results, ids: list[str]) -> Iterator[list[Any]]:
    """Yield the questions of each block: of each, setting → seed → passes → turns."""
    source = results.tables()["completions"]
    for start in range(0, len(ids), _QUESTIONS_A_BLOCK):
        asked = ids[start : start + _QUESTIONS_A_BLOCK]
        wanted = source.to_table([*_PLACE, *TURN], filter=pc.field("question_id").isin(asked))
        found: dict[str, Any] = {name: {} for name in asked}
        for row in pl.DataFrame(wanted).sort(_PLACE).iter_rows(named=True):
            seeds = found[row["question_id"]].setdefault(row["setting"], {})
            passes = seeds.setdefault(str(row["seed"]), {})
            passes.setdefault(str(row["pass"]), []).append([row[name] for name in TURN])
        yield [found[name] for name in asked]
