"""Print the plan of a build in 80 columns."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from malt_data.display import escape


def print_plan(plan: dict[str, Any], console: Console) -> None:
    """Print the result of `predict_build`: of the whole, and of other n."""
    console.print(
        f"From {plan['pilot_trees']} of {plan['questions']} trees, which are in "
        f"{escape(plan['forest'])} now. With 90 % intervals, the whole will have:",
        markup=False,
    )
    table = _table("", "about", "from", "to")
    for name in ("completions", "prompt_tokens", "shared_prompt_tokens", "completion_tokens"):
        _row(table, name.replace("_", " "), plan[name])
    for role in plan["roles"]:
        _row(table, f"{role['role']} positives", role["positives"])
        _row(table, f"{role['role']} pairs", role["pairs"])
    _row(table, "hours left", plan["hours_left"], "{:,.2f}")
    console.print(table)
    if not plan["branchings"]:  # adaptive trees have none
        return
    console.print("\nWith another branching, at the rates of these questions:")
    others = _table("n", "completions", "tokens", "pairs", "from", "to", "per 1,000 tokens")
    for row in plan["branchings"]:
        pairs = [f"{row['pairs'][end]:,.0f}" for end in ("mean", "low", "high")]
        rate = row["pairs_per_1000_tokens"]
        counts = (f"{row['completions']:,}", f"{row['tokens']:,}")
        others.add_row(str(row["n"]), *counts, *pairs, "" if rate is None else f"{rate:.2f}")
    console.print(others)


def _table(first: str, *names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first)
    for name in names:
        table.add_column(name, justify="right")
    return table


def _row(table: Table, name: str, estimate: dict[str, float] | None, form: str = "{:,.0f}") -> None:
    if estimate is not None:
        ends = (form.format(estimate[end]) for end in ("mean", "low", "high"))
        table.add_row(Text(escape(name)), *ends)
