"""`forest.json`: what a forest was asked to be, what made it, and what each build of it took."""

import datetime as dt
from typing import Any

from pydantic import ConfigDict

from malt_data.schemas.forest import NAME, VERSION
from malt_data.schemas.model import Field, Model
from malt_data.schemas.spec import BuildSpec, Labelled, Labels

CURRENT = f"{NAME}/{VERSION}"
"""What a manifest and every part say once this version has written to a forest."""


class BuildRecord(Model):
    """One build that added trees, at its end; `engines/usage.py` says what the numbers mean.

    A build that was killed leaves its trees and no record. trees: those it added. failed: those
    it gave up. started: when the first question was asked, UTC.
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


class Manifest(Model):
    """The content of `forest.json`."""

    format: str = Field(default=CURRENT, alias="schema")
    created: dt.datetime
    malt_data: str
    spec: BuildSpec
    labels: Labels
    regraded: int = Field(0, ge=0)
    """How often all answers were graded again: a part that says less is not yet."""
    questions: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    runs: list[BuildRecord] = []

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @property
    def labelled(self) -> Labelled:
        """What every part says of its labels once a relabel is through."""
        return Labelled(**self.labels.model_dump(), regraded=self.regraded)

    def to_json(self) -> str:
        return self.model_dump_json(indent=2, by_alias=True) + "\n"
