"""Show what each threshold and pooling would make of a forest: a table and a figure.

draw_sweep(sweep(open_forest("forest")), "sweep.svg")
"""

from pathlib import Path
from typing import Any

from malt_data.errors import ForestError
from malt_data.report.figures import STYLE
from malt_data.storage.files import atomic_write

FORMATS = ("svg", "png", "pdf")
_STYLE = {"global": "-", "local": "--"}
_PANELS = {
    "positives, %": lambda row: 100 * row["positives"] / row["nodes"] if row["nodes"] else None,
    "pairs": lambda row: row["pairs"],
    "flips": lambda row: row["flips"],
    "confidence, %": lambda row: None if (p := row["confidence"]) is None else 100 * p,
}


def sweep_table(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return the rows as cells."""
    return [
        {
            "pooling": row["pooling"],
            "threshold": f"{row['threshold']:g}",
            "role": row["role"],
            **{name: str(row[name]) for name in ("positives", "pairs", "flips")},
            "confidence": "" if row["confidence"] is None else f"{row['confidence']:.3f}",
        }
        for row in rows
    ]


def require_figure(path: str | Path) -> None:
    """Raise ForestError if no figure could be drawn there."""
    if Path(path).suffix.lstrip(".").lower() not in FORMATS:
        raise ForestError(f"{path}: the name of a figure ends in .{', .'.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ForestError("Figures need matplotlib: pip install 'malt-data[train]'") from None


def draw_sweep(rows: list[dict[str, Any]], path: str | Path) -> None:
    """Draw a panel for each column of the table against the threshold.

    Roles have colours; local pooling is dashed. Raises ForestError if matplotlib is not installed
    or the name has another ending than FORMATS.
    """
    require_figure(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    form = path.suffix.lstrip(".").lower()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 5.0), layout="constrained")
        axes = figure.subplots(2, 2, sharex=True).flatten()
        for panel, (name, of) in zip(axes, _PANELS.items(), strict=True):
            _panel(panel, rows, of)
            panel.set_ylabel(name)
        for panel in axes[2:]:
            panel.set_xlabel("threshold")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right upper", frameon=False, fontsize=8)
        dated = {"Date": None} if form == "svg" else {"CreationDate": None} if form == "pdf" else {}
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format=form, metadata=dated, dpi=150)


def _panel(axes: Any, rows: list[dict[str, Any]], of: Any) -> None:
    for index, role in enumerate(dict.fromkeys(row["role"] for row in rows)):
        for pooling, style in _STYLE.items():
            line = [row for row in rows if (row["role"], row["pooling"]) == (role, pooling)]
            axes.plot([row["threshold"] for row in line], [of(row) for row in line], style,
                      color=f"C{index % 10}", marker="o", markersize=3,
                      label=f"{role}, {pooling}")  # fmt: skip
