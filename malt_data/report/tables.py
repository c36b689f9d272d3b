"""Format evaluation tables for the terminal, and as Markdown in the paper's layout."""

from collections.abc import Callable
from typing import Any

_SEEDS = "accuracy, % ± std (n − 1)"


def readable(rows: list[dict[str, Any]], wide: bool = True) -> list[dict[str, str]]:
    """Format the rows: `behind` in points, tokens and seconds per question.

    wide: include the seconds in a comparison, which then does not fit 80 columns.
    """
    std = any(row["seeds"] > 1 for row in rows)  # a single seed has no deviation
    cells: dict[str, Callable[[dict[str, Any]], str]] = {
        "setting": lambda r: r["setting"],
        _SEEDS if std else "accuracy, %": lambda r: (
            f"{100 * r['mean']:.2f}" + (f" ±{100 * r['std']:.2f}" if r["seeds"] > 1 else "")
        ),
        "95 % interval": lambda r: f"{100 * r['low']:.1f}-{100 * r['high']:.1f}",
        "no answer, %": lambda r: f"{100 * r['unanswered']:.1f}",
        "tokens": lambda r: "" if (count := tokens(r)) is None else f"{count:.0f}",
        "seconds": lambda r: f"{r['seconds']:.1f}",
    }
    if any(row["teams"] > 1 for row in rows):
        cells["teams"] = lambda r: str(r["teams"])
        cells["± teams"] = lambda r: f"{100 * r['std_teams']:.2f}" if r["teams"] > 1 else ""
    if rows and "p" in rows[0]:
        cells["behind"] = lambda r: "" if r["p"] is None else f"{100 * r['behind']:.1f}"
        cells["p"] = lambda r: "" if r["p"] is None else f"{r['p']:.4f}"
        cells["p, Holm"] = lambda r: "" if r["p_holm"] is None else f"{r['p_holm']:.4f}"
        if not wide:
            del cells["seconds"]
    return [{name: cell(row) for name, cell in cells.items()} for row in rows]


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table in the layout of the paper's Table 1: one column per setting."""
    if not rows:
        return ""
    columns = readable(rows)
    return _markdown([["", *(column["setting"] for column in columns)]] + [
        [name, *(column[name] for column in columns)] for name in list(columns[0])[1:]
    ])  # fmt: skip


def markdown_overview(rows: list[dict[str, Any]]) -> str:
    """Return an overview as Markdown: one line per model and benchmark."""
    lines = readable_overview(rows)
    return _markdown([list(lines[0]), *(list(line.values()) for line in lines)])


def _markdown(lines: list[list[str]]) -> str:
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("|" + "|".join(line) + "|" for line in lines)


def readable_overview(rows: list[dict[str, Any]], width: int | None = None) -> list[dict[str, str]]:
    """Format an overview, in points.

    One column per setting, or, if that is wider than `width` characters, one line per setting.
    """
    names = list(dict.fromkeys(name for row in rows for name in row["settings"]))
    lines = []
    for row in rows:
        differs = "".join(f", {name} {value}" for name, value in row["differs"].items())
        cells = {"model": row["model"], "benchmark": row["benchmark"] + differs}
        for name in names:
            accuracy = row["settings"].get(name)
            cells[name] = "" if accuracy is None else _points(accuracy)
        lines.append(cells)
    widths = [max(len(name), *(len(line[name]) for line in lines)) + 2 for name in lines[0]]
    if width is None or sum(widths) <= width:
        return lines
    heads = [
        f"{number} {line['model']} {line['benchmark']}" for number, line in enumerate(lines, 1)
    ]
    return [
        {"setting": name, **{head: line[name] for head, line in zip(heads, lines, strict=True)}}
        for name in names
    ]


def _points(row: dict[str, Any]) -> str:
    if row["teams"] > 1:
        return f"{100 * row['mean']:.2f} ±{100 * row['std_teams']:.2f} ({row['teams']} teams)"
    return f"{100 * row['mean']:.2f}" + (f" ±{100 * row['std']:.2f}" if row["seeds"] > 1 else "")


def tokens(row: dict[str, Any]) -> Any:
    """Return the tokens per question, prompts included; None if the engine did not report them."""
    counts = row["prompt_tokens"], row["completion_tokens"]
    return None if None in counts else sum(counts)
