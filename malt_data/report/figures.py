"""Draw the paper's figures of an evaluation as SVG: accuracy by turn, flips, votes, tokens.

write_figures(open_results("results"), "results/figures")
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from malt_data.errors import EvalError
from malt_data.evaluation.results import Results
from malt_data.evaluation.tables import accuracy_table
from malt_data.report.tables import tokens
from malt_data.storage.files import atomic_write

_SIZE = (6.0, 3.8)  # inches
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "malt-data",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
}
"""Matplotlib's settings for all figures; the salt makes equal ones equal to the byte."""


def write_figures(results: Results, folder: str | Path) -> list[Path]:
    """Write turns, flips, against, votes and cost as SVG; return their paths.

    turns: Figure 3. flips: changes within a pass. against: changes from the base setting's answers
    to those of each other setting (Figure 2); the base is the first setting without adapters.
    A figure without data (flips, if every pass has one turn) is skipped. Raises EvalError if
    matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure  # no pyplot: no global state, no display
    except ImportError:
        raise EvalError("Figures need matplotlib: pip install 'malt-data[train]'") from None

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with mpl.rc_context(STYLE):
        for name, draw in _FIGURES.items():
            figure = Figure(figsize=_SIZE, layout="constrained")
            if not draw(figure.add_subplot(), results):
                continue
            path = folder / f"{name}.svg"
            with atomic_write(path) as temporary:
                figure.savefig(temporary, format="svg", metadata={"Date": None})
            written.append(path)
    return written


def _turns(axes: Any, results: Results) -> bool:
    """Draw accuracy after each turn; dashed, the accuracy of a vote over the passes."""
    rows = results.sql(
        "FROM turn_accuracy WHERE setting IN "
        "(SELECT setting FROM turn_accuracy GROUP BY setting HAVING count(*) > 1)"
    ).to_dicts()
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["setting"], []).append(row)
    names = _plain(results, set(by_name))
    if not names:
        return False
    debates = {s["name"] for s in results.manifest["settings"] if s["agents"] > 1}

    def line(name: str, column: str, label: str, **style: Any) -> None:
        rows = by_name[name]
        x = [row["turn"] for row in rows]
        axes.plot(x, [100 * row[column] for row in rows], marker="o", markersize=4,
                  label=label, **style)  # fmt: skip

    for index, name in enumerate(names):
        colour = f"C{index % 10}"
        debate = name in debates
        line(name, "accuracy", f"{name} (rounds)" if debate else name, color=colour)
        voted = name if debate or name.endswith("+mv") else f"{name}+mv"
        if voted in by_name:
            line(voted, "voted", f"{voted}, voted", color=colour, linestyle="--")
    ticks = _speakers(row for row in rows if row["setting"] not in debates)
    rounds = max(row["turn"] for row in rows) + 1
    ticks += [f"round {index + 1}" for index in range(len(ticks), rounds)]
    axes.set_xticks(range(rounds), ticks)
    axes.set(ylabel="accuracy, %", title="Accuracy after each turn")
    axes.set_ylim(bottom=0)
    _legend(axes)
    return True


def _speakers(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Return who speaks in each turn, which may depend on the setting."""
    roles: dict[int, dict[str, None]] = {}
    for row in rows:
        roles.setdefault(row["turn"], {})[row["role"]] = None
    return [" / ".join(roles[turn]) for turn in sorted(roles)]


def _flips(axes: Any, results: Results) -> bool:
    """Draw what the turns after the first change."""
    rows = results.sql("FROM flips WHERE base IS NULL").to_dicts()
    title = "Answers changed after the first turn"
    return _bars(axes, results, rows, ("of all passes, %", title))


def _against(axes: Any, results: Results) -> bool:
    """Draw which of the base setting's answers each other setting changes."""
    bare = [s["name"] for s in results.manifest["settings"] if s["adapters"] == "none"]
    base = (bare or results.settings)[0]
    rows = results.sql("FROM flips WHERE base = ?", [base]).to_dicts()
    title = f"Answers changed against {base}"
    return _bars(axes, results, rows, ("of all questions and seeds, %", title), votes=True)


def _bars(
    axes: Any,
    results: Results,
    flips: list[dict[str, Any]],
    labels: tuple[str, str],
    votes: bool = False,
) -> bool:
    """Draw flips from wrong to right and back. labels: y axis, title. votes: include NAME+mv."""
    rows = {row["setting"]: row for row in flips}
    names = [n for n in results.settings if n in rows] if votes else _plain(results, set(rows))
    if not names:
        return False
    for offset, (column, label) in enumerate(
        (("wrong_to_right", "wrong → right"), ("right_to_wrong", "right → wrong"))
    ):
        x = [index + 0.4 * (offset - 0.5) for index in range(len(names))]
        bars = axes.bar(x, [100 * rows[name][column] for name in names], 0.38, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=7 if len(names) < 8 else 5.5)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set(ylabel=labels[0], title=labels[1])
    _legend(axes)
    return True


def _votes(axes: Any, results: Results) -> bool:
    """Draw accuracy against the number of votes."""
    debates = {s["name"] for s in results.manifest["settings"] if s["agents"] > 1}
    rows = results.sql("FROM votes").to_dicts()
    drawn = False
    max_votes = 1
    for name in results.settings:
        points = [row for row in rows if row["setting"] == name and name not in debates]
        if len(points) > 1:
            axes.plot([row["votes"] for row in points], [100 * row["accuracy"] for row in points],
                      marker="o", markersize=4, label=name.removesuffix("+mv"))  # fmt: skip
            drawn, max_votes = True, max(max_votes, points[-1]["votes"])
    if not drawn:
        return False
    axes.set(xlabel="votes", ylabel="accuracy, %", title="Accuracy by number of votes")
    axes.set_xticks(range(1, max_votes + 1, max(2, max_votes // 20 * 2)))
    axes.set_ylim(bottom=0)
    _legend(axes)
    return True


def _cost(axes: Any, results: Results) -> bool:
    """Draw accuracy against tokens per question, prompts included, on a log scale."""
    from matplotlib.ticker import LogLocator

    rows = [row for row in accuracy_table(results) if tokens(row)]
    if not rows:
        return False
    plain = list(dict.fromkeys(row["setting"].removesuffix("+mv") for row in rows))
    for row in rows:
        mean = 100 * row["mean"]
        spread = [[mean - 100 * row["low"]], [100 * row["high"] - mean]]
        voted = row["setting"].endswith("+mv")
        colour = f"C{plain.index(row['setting'].removesuffix('+mv')) % 10}"  # the same for NAME+mv
        axes.errorbar(tokens(row), mean, yerr=spread, fmt="s" if voted else "o", capsize=2,
                      color=colour, label=row["setting"])  # fmt: skip
    axes.set(xscale="log", xlabel="tokens per question", ylabel="accuracy, %",
             title="Accuracy against tokens, with 95 % intervals")  # fmt: skip
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_ylim(bottom=0)
    _legend(axes)
    return True


_FIGURES = {"turns": _turns, "flips": _flips, "against": _against, "votes": _votes, "cost": _cost}


def _legend(axes: Any) -> None:
    """Put the legend next to the axes, where it covers nothing."""
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _plain(results: Results, names: set[str]) -> list[str]:
    """Return the settings in `names`, in order, without NAME+mv if NAME is among them."""
    return [
        name
        for name in results.settings
        if name in names and (not name.endswith("+mv") or name.removesuffix("+mv") not in names)
    ]
