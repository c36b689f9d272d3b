"""What each threshold and pooling would make of a forest (*MALT* §A.5, §A.6.1).

    sweep(open_forest("forest"))[0]
    # {"pooling": "global", "threshold": 0.1, "role": "generator", "nodes": 48, "positives": 20, …}

Nothing is written: every setting is a dry run of `relabel`.
"""

from collections.abc import Callable, Sequence
from typing import Any, get_args

import polars as pl

from malt_data.forests.confidence import Confidence, fit_confidence, fitted_nodes
from malt_data.forests.forest import Forest
from malt_data.forests.labels import assign
from malt_data.forests.relabel import relabel
from malt_data.schemas.spec import Labels, Pooling

THRESHOLDS = tuple(tenth / 10 for tenth in range(1, 10))


def sweep(
    forest: Forest,
    thresholds: Sequence[float] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Return one row per pooling, threshold and role: nodes, positives, pairs, flips, confidence.

    thresholds: None for 0.1 to 0.9, and that of the forest. pairs: of siblings with different
    labels. flips: labels that differ from those stored. confidence: the mean over the nodes of the
    trees that the model is fitted to (`confidence.py`); None if it says nothing of any.
    Raises ForestError if a relabel is unfinished, and StorageError if another process is
    relabelling the forest.
    """
    present = forest.manifest.labels
    chosen = sorted({*THRESHOLDS, present.threshold} if thresholds is None else {*thresholds})
    settings = [
        present.updated(pooling=pooling, threshold=threshold)
        for pooling in get_args(Pooling)
        for threshold in chosen
    ]
    with forest.reading():
        forest.require_labelled()
        fitted = fitted_nodes(forest)
        before = forest.nodes().group_by(pl.col("role").cast(pl.String)).agg(pl.sum("label"))
        positives = dict(before.collect().iter_rows())
    models: dict[Pooling, Confidence] = {}
    rows = []
    for done, labels in enumerate(settings):
        on_progress(done, len(settings))
        confidence = _confidence(fitted, labels, models)
        for role, counts in relabel(forest, labels, dry_run=True).items():
            gained, lost = counts["to_positive"], counts["to_negative"]
            rows.append({
                "pooling": labels.pooling,
                "threshold": labels.threshold,
                "role": role,
                "nodes": counts["nodes"],
                "positives": positives.get(role, 0) + gained - lost,
                "pairs": counts["pairs_after"],
                "flips": gained + lost,
                "confidence": confidence.get(role),
            })  # fmt: skip
    on_progress(len(settings), len(settings))
    return rows


def _confidence(
    nodes: pl.DataFrame, labels: Labels, models: dict[Pooling, Confidence]
) -> dict[str, float]:
    """Return role → mean confidence of the labels that a setting gives these nodes.

    models: kept for the next setting, as global pooling needs one fit: rewards have no threshold.
    """
    nodes = assign(nodes, labels.threshold, labels.pooling)
    if labels.pooling == "local" or "global" not in models:
        models[labels.pooling] = fit_confidence(nodes, labels)
    model = Confidence(labels, models[labels.pooling].rates)
    return dict(model.of(nodes).group_by("role").agg(pl.mean("confidence")).iter_rows())
