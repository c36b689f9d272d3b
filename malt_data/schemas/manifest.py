"""`forest.json`: the spec of a forest, its provenance, and a record of each build."""

import datetime as dt
from typing import Any

from pydantic import ConfigDict

from malt_data.schemas.forest import NAME, VERSION
from malt_data.schemas.model import Field, Model
from malt_data.schemas.spec import BuildSpec, Labelled, Labels

CURRENT = f"{NAME}/{VERSION}"
"""The version that this code writes to manifests and parts."""


class BuildRecord(Model):
    """A finished build that added trees; `engines/usage.py` explains the usage numbers.

    A killed build leaves its trees but no record. trees: number added. failed: number of trees that
    failed. started: time of the first question, UTC. prompt_computed, prompt_least: prompt tokens
    that the engine computed, and the fewest that these trees can take; None if it does not say.
    """

    started: dt.datetime
    trees: int
    failed: int
    completions: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    tokens_per_second: float | None
    peak_memory: int | None
    peak_gpu_memory: int | None
    cores: int | None
    gpu: str | None
    prompt_computed: int | None = None
    prompt_least: int | None = None


class Manifest(Model):
    """The content of `forest.json`."""

    format: str = Field(default=CURRENT, alias="schema")
    created: dt.datetime
    malt_data: str
    spec: BuildSpec
    labels: Labels
    regraded: int = Field(0, ge=0)
    """How often all answers were graded again; parts with a lower number still have to be."""
    questions: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    runs: list[BuildRecord] = []

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @property
    def labelled(self) -> Labelled:
        """The labels that every part has after a complete relabel."""
        return Labelled(**self.labels.model_dump(), regraded=self.regraded)

    def to_json(self) -> str:
        return self.model_dump_json(indent=2, by_alias=True) + "\n"
