"""Plot the curves of a training run as SVG: loss, and for DPO the reward margin."""

from pathlib import Path
from typing import Any

from malt_data.storage.files import atomic_write

_CURVES = (
    ("loss", ("loss", "eval_loss")),
    ("reward margin", ("rewards/margins", "eval_rewards/margins")),
)


def plot_curves(history: list[dict[str, Any]], path: Path) -> None:
    """Plot the logged metrics (`trainer.state.log_history`), train and validation, over steps."""
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    panels = [
        (title, names)
        for title, names in _CURVES
        if any(n in row for row in history for n in names)
    ]
    figure = Figure(figsize=(5 * max(1, len(panels)), 3.2), layout="constrained")
    for index, (title, names) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), index)
        for name in names:
            points = [(row["step"], row[name]) for row in history if name in row]
            if points:
                held_out = name.startswith("eval_")
                axes.plot(*zip(*points, strict=True), marker="o" if held_out else None,
                          label="validation" if held_out else "train")  # fmt: skip
        axes.set(xlabel="step", title=title)
        axes.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
