"""Open the folder of an evaluation and query its results.

results = open_results("results")
results.sql("FROM accuracy")             # polars DataFrame; also turns, turn_accuracy, flips, …
results.predictions()                    # one row per setting, seed and question
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from malt_data.errors import EvalError
from malt_data.evaluation.parts import (
    CompletionParts,
    pipeline_of,
    read_manifest,
    read_questions,
)
from malt_data.evaluation.predictions import read_predictions
from malt_data.schemas import layout
from malt_data.schemas.evaluation import COMPLETIONS
from malt_data.schemas.pipeline import roles_table
from malt_data.storage.parquet import read_table


class Results:
    """The results that `malt-data eval` wrote: manifest, tables, and SQL on them."""

    views: tuple[str, ...] = (
        "accuracy", "turns", "ballots", "turn_accuracy", "flips", "votes", "results/verdicts",
        "cost",
    )  # fmt: skip

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    @property
    def settings(self) -> list[str]:
        """Names of the settings, in the order in which they were requested."""
        return [setting["name"] for setting in self.manifest["settings"]]

    def tables(self) -> dict[str, ds.Dataset]:
        """Return the tables that SQL can read; `roles` says which roles judge."""
        pipeline = pipeline_of(self.manifest)
        return {
            "roles": ds.dataset(roles_table(pipeline)),
            "questions": ds.dataset(read_questions(self.folder)),
            "completions": ds.dataset(CompletionParts(self.folder).paths(), schema=COMPLETIONS),
            "predictions": ds.dataset(read_predictions(self.folder)),
        }

    def computed(self) -> dict[str, Callable[[], pa.Table]]:
        """Return no tables: all are stored."""
        return {}

    def view(self, name: str) -> str:
        """Return the SQL of a view."""
        from malt_data.storage.query import read_view

        return read_view(name)

    def predictions(self) -> pl.DataFrame:
        """Return one row per setting, seed and question (`schemas.evaluation.PREDICTIONS`).

        Without `same_as`, which only SQL needs, and with the `cluster` of the question: the
        template that it was made from, or the question itself.
        """
        predictions = pl.DataFrame(read_table(self.folder / layout.PREDICTIONS)).drop(
            "same_as", strict=False
        )
        clusters = pl.DataFrame(read_questions(self.folder)).select(
            "question_id", cluster=pl.coalesce("cluster", "question_id")
        )
        return predictions.join(clusters, on="question_id", how="left", maintain_order="left")

    def sql(self, query: str, parameters: Sequence[Any] = ()) -> pl.DataFrame:
        """Run one read-only DuckDB query on the views; raise QueryError if it fails."""
        from malt_data.storage.query import run_query

        return pl.DataFrame(run_query(self, query, parameters))


def open_results(folder: str | Path) -> Results:
    """Open the folder of an evaluation; raise EvalError if it is not one."""
    path = Path(folder)
    if not (path / layout.RESULTS).exists():
        raise EvalError(f"{path} is not an evaluation. Run one: malt-data eval --out {path}")
    if not (path / layout.PREDICTIONS).exists():
        raise EvalError(f"{path} has no predictions yet. Run the same malt-data eval again.")
    return Results(path, read_manifest(path))
