"""Print an export, its check, and the explanation of a label."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from malt_data.display import clean, escape
from malt_data.exporters.export import ExportReport
from malt_data.exporters.selection import REASONS
from malt_data.report.terminal import percent


def print_export(
    report: ExportReport, folder: Path | None, checked: dict[str, Any] | None, console: Console
) -> None:
    """Print the rows, what was left out and why, and the check. folder: None for a dry run."""
    rows = ", ".join(f"{count} {split}" for split, count in report.rows.items()) or "no rows"
    where = f" in {escape(str(folder))}" if folder else ""
    console.print(f"{report.config}: {rows}{where}", markup=False)
    for reason, count in report.dropped.items():
        console.print(f"  {count} left out: {reason} ({REASONS[reason]})", markup=False)
    if checked is None or not checked["rows"]:
        return
    lengths = {"prompt": checked["prompt_tokens"], **checked["text_tokens"]}
    for name, marks in lengths.items():
        shown = ", ".join(f"{mark} {tokens}" for mark, tokens in marks.items())
        console.print(f"  {name} tokens: {shown}", markup=False)
    if checked["max_length"] is not None:
        console.print(f"  longer than {checked['max_length']} tokens: {checked['too_long']}")
    if checked["chosen_longer"] is not None:
        console.print(f"  chosen is longer than rejected in {percent(checked['chosen_longer'])}")
    if rows_with := checked["thinking"]["rows"]:
        kept = checked["thinking"]["kept"]
        console.print(f"  thinking: in {rows_with} rows, the chat template keeps that of {kept}")
    if checked["thinking"]["empty_block"]:
        console.print("  the chat template writes an empty thought before texts without thinking")
    if checked["example"] is not None:
        shown = clean(checked["example"]).strip("\n").replace("\n", "\n    ")
        console.print(f"  the end of a row:\n    {shown}", markup=False, soft_wrap=True)


def print_explained(facts: dict[str, Any], console: Console, *, pair: bool = False) -> None:
    """Print the result of `explain`, from the question down to the exports.

    pair: of two nodes, not of one.
    """
    question = facts["question"]
    console.print(
        Text(f"question {question['question_id']}, gold {clean(question['gold'])}", "bold")
    )
    console.print(Text(clean(question["question"])))
    for node in facts["path"]:
        mark = "+" if node["label"] else "-"
        console.print(
            Text(f"\n{escape(node['node_id'])}  {node['role']}  {node['value']:.2f} {mark}", "bold")
        )
        console.print(Text(clean(node["text"])))
    console.print(Text("\nwhy", "bold"))
    for leaf in facts["leaves"]:
        answer = "no answer" if leaf["answer"] is None else clean(leaf["answer"])
        console.print(Text(f"{escape(leaf['node_id'])}  {leaf['verdict']}  {answer}"))
    console.print(Text(facts["label_because"]))
    if facts["confidence"] is not None and facts["low"] != facts["high"]:
        console.print(
            Text(
                f"{percent(facts['confidence'])} sure: its true value is {facts['low']:.2f} to "
                f"{facts['high']:.2f} (90 %); Hoeffding's bound at its value: "
                f"{percent(facts['bound'])}"
            )
        )
    console.print(Text("\nexports", "bold"))
    for name, decision in facts["exports"].items():
        rows = decision["rows"]
        console.print(Text(f"{name} ({decision['status']}): {_outcome(rows, pair=pair)}"))
        for row in rows:
            if "chosen_id" in row:
                why = row["reason"] or f"row in {row['split']}"
                console.print(Text(f"  {row['chosen_id']} over {row['rejected_id']}: {why}"))


def _outcome(rows: list[dict[str, Any]], *, pair: bool) -> str:
    if not rows:
        return "these two are no pair" if pair else "no pair: all siblings have the same label"
    if "chosen_id" in rows[0]:
        kept = sum(row["reason"] is None for row in rows)
        return f"in {kept} of {len(rows)} pairs"
    reason = rows[0]["reason"]
    return f"left out: {reason} ({REASONS[reason]})" if reason else f"row in {rows[0]['split']}"
