"""The paper's figures of an evaluation as SVG: accuracy by turn, flips, accuracy against tokens.

draw(open_results("results"), Path("results/figures"))
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from malt_data.errors import EvalError
from malt_data.forests.parts import whole
from malt_data.schemas.ids import ROLES

if TYPE_CHECKING:
    from malt_data.evaluation.results import Results

_SIZE = (6.0, 3.8)  # inches


def draw(results: "Results", folder: Path) -> list[Path]:
    """Write turns.svg (Figure 3), flips.svg (Figure 2) and cost.svg; return their paths.

    A figure for which no setting has what it shows (flips, where every pass has one turn) is left
    out. Raises EvalError where matplotlib is missing.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure  # no pyplot: no global state, no display
    except ImportError:
        raise EvalError("Figures need matplotlib: pip install 'malt-data[train]'") from None

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with mpl.rc_context({"svg.hashsalt": "malt-data", "axes.spines.top": False,
                         "axes.spines.right": False, "font.size": 9}):  # fmt: skip
        for name, drawn in (("turns", _turns), ("flips", _flips), ("cost", _cost)):
            figure = Figure(figsize=_SIZE, layout="constrained")
            if not drawn(figure.add_subplot(), results):
                continue
            path = folder / f"{name}.svg"
            with whole(path) as temporary:
                figure.savefig(temporary, format="svg", metadata={"Date": None})
            written.append(path)
    return written


def _turns(axes: Any, results: "Results") -> bool:
    """Accuracy after each turn of a pass, before any vote; votes ask the same passes again."""
    rows = results.sql(
        "FROM turn_accuracy WHERE setting IN "
        "(SELECT setting FROM turn_accuracy GROUP BY setting HAVING count(*) > 1)"
    ).to_dicts()
    names = _plain(results, {row["setting"] for row in rows})
    if not names:
        return False
    debates = {s["name"] for s in results.manifest["settings"] if s["agents"] > 1}
    for name in names:
        mine = [row for row in rows if row["setting"] == name]
        places = [row["turn"] if name in debates else ROLES.index(row["role"]) for row in mine]
        axes.plot(places, [100 * row["accuracy"] for row in mine], marker="o",
                  label=f"{name} (rounds)" if name in debates else name)  # fmt: skip
    rounds = max(row["turn"] for row in rows) + 1
    ticks = [f"round {number + 1}" for number in range(rounds)]
    axes.set_xticks(*((range(rounds), ticks) if debates >= {*names} else (range(3), ROLES)))
    axes.set(ylabel="accuracy, %", title="Accuracy after each turn")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return True


def _flips(axes: Any, results: "Results") -> bool:
    """What the turns after the first mend and break."""
    rows = {row["setting"]: row for row in results.sql("FROM flips").to_dicts()}
    names = _plain(results, set(rows))
    if not names:
        return False
    for offset, (column, label) in enumerate(
        (("wrong_to_right", "wrong → right"), ("right_to_wrong", "right → wrong"))
    ):
        places = [place + 0.4 * (offset - 0.5) for place in range(len(names))]
        bars = axes.bar(places, [100 * rows[name][column] for name in names], 0.38, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set(ylabel="of all passes, %", title="Answers changed after the first turn")
    axes.legend(frameon=False, fontsize=8)
    return True


def _cost(axes: Any, results: "Results") -> bool:
    """Accuracy against the tokens of a question, prompts included, on a logarithmic scale."""
    from matplotlib.ticker import LogLocator

    from malt_data.evaluation.results import table, tokens

    rows = [row for row in table(results) if tokens(row)]
    if not rows:
        return False
    plain = list(dict.fromkeys(row["setting"].removesuffix("+mv") for row in rows))
    for row in rows:
        mean = 100 * row["mean"]
        spread = [[mean - 100 * row["low"]], [100 * row["high"] - mean]]
        voted = row["setting"].endswith("+mv")
        colour = f"C{plain.index(row['setting'].removesuffix('+mv')) % 10}"  # a vote keeps its own
        axes.errorbar(tokens(row), mean, yerr=spread, fmt="s" if voted else "o", capsize=2,
                      color=colour, label=row["setting"])  # fmt: skip
    axes.set(xscale="log", xlabel="tokens a question", ylabel="accuracy, %",
             title="Accuracy against tokens, with 95 % intervals")  # fmt: skip
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return True


def _plain(results: "Results", having: set[str]) -> list[str]:
    """Return the settings in `having`, in order; NAME+mv only where NAME is not there."""
    return [
        name
        for name in results.settings
        if name in having and (not name.endswith("+mv") or name.removesuffix("+mv") not in having)
    ]
