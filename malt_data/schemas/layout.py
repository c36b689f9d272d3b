"""File names of forests, exports and evaluations, on disk and in dataset repos.

my-forest/
  forest.json              MANIFEST
  questions.parquet        QUESTIONS
  nodes/part-*.parquet     NODES
  exports/refiner_dpo/     EXPORTS, one folder per export
    export.json            EXPORT
    train-*.parquet
  exports/refiner_dpo_openai/    the same rows as another tool reads them
    origin/train-*.parquet       ORIGIN, the ids of the rows
  README.md                CARD, on the Hub

results/
  eval.json                RESULTS
  questions.parquet        QUESTIONS
  completions/part-*.parquet   COMPLETIONS
  predictions.parquet      PREDICTIONS
"""

import os
from pathlib import Path

MANIFEST = "forest.json"
QUESTIONS = "questions.parquet"
NODES = "nodes"
EXPORTS = "exports"
EXPORT = "export.json"
ORIGIN = "origin"
CARD = "README.md"

RESULTS = "eval.json"
COMPLETIONS = "completions"
PREDICTIONS = "predictions.parquet"

TEAM = "team.toml"
"""A trained team: its base model and the adapter of each role."""

DEFAULT_FOLDER = "forest"


def default_folder() -> Path:
    """Return the default forest folder: $MALT_FOREST or ./forest."""
    return Path(os.environ.get("MALT_FOREST") or DEFAULT_FOLDER)
