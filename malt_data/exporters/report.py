"""What an export and its check say on a terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console

from malt_data.display import spelt
from malt_data.exporters.export import Report
from malt_data.exporters.selection import REASONS


def print_export(
    report: Report, folder: Path | None, checked: dict[str, Any] | None, console: Console
) -> None:
    """Print rows, drops with their reasons, and what the check found. folder None: a dry run."""
    rows = ", ".join(f"{count} {split}" for split, count in report.rows.items()) or "no rows"
    where = f" in {spelt(str(folder))}" if folder else ""
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
        console.print(f"  chosen is the longer text in {100 * checked['chosen_longer']:.0f} %")
