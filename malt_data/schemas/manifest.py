"""`forest.json`: what a forest was asked to be, and what made it.

The resolved build spec stands here in full, prompts included, so that a forest says by itself
how to grow it again. `Spec` is also what `malt-data build` and its TOML files are checked
against: frozen, and an unknown key is an error.

    >>> Spec(n=2, n_refiner=3).branching
    (2, 2, 3)
"""

import datetime as dt
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from malt_data.errors import ForestError, SpecError
from malt_data.schemas.forest import NAME, VERSION
from malt_data.schemas.versions import check
from malt_data.storage.documents import read_json

MANIFEST = "forest.json"
CURRENT = f"{NAME}/{VERSION}"
"""What a manifest and every part say once this version has written to a forest."""

_MOST = 10**9
"""Above any count that could be meant, below what the libraries take."""

Grader = Literal["auto", "numeric", "choice", "math"]
Kind = Literal["numeric", "choice", "math"]
Pooling = Literal["global", "local"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Labels(_Frozen):
    """How answers were graded and values turned into labels (*MALT* §4.2, §A.5)."""

    grader: Grader = "auto"
    threshold: float = Field(0.5, ge=0, lt=1)
    pooling: Pooling = "global"

    def footer(self) -> bytes:
        """Return it as JSON, as it stands in the footer of a part."""
        return self.model_dump_json().encode()


class Labelled(Labels):
    """What a part says of its labels; an interrupted relabel shows as parts that differ here.

    regraded: how often all answers of the forest had been graded again.
    """

    regraded: int = Field(0, ge=0)

    def footer(self) -> bytes:
        # Without the new field where it says nothing: what did not change stays byte-equal.
        return self.model_dump_json(exclude=None if self.regraded else {"regraded"}).encode()


class Spec(_Frozen):
    """Everything a build can be asked. The defaults are *MALT*'s where it has one (§A.9)."""

    questions: str = Field("embedded", min_length=1)
    split: str | None = None
    limit: int | None = Field(None, ge=1, le=_MOST)
    fields: dict[str, str] = {}
    kind: Kind | None = None
    """Of free-form questions whose source names none; None: one rule over the source decides."""
    shard: str | None = Field(None, pattern=r"^[0-9]{1,9}/[0-9]{1,9}$")

    n: int = Field(3, ge=1, le=64)
    n_generator: int | None = Field(None, ge=1, le=64)
    n_verifier: int | None = Field(None, ge=1, le=64)
    n_refiner: int | None = Field(None, ge=1, le=64)

    engine: Literal["transformers", "vllm", "openai"] = "transformers"
    model: str | None = None
    base_url: str | None = None
    concurrency: int | None = Field(None, ge=1, le=4096)
    adapters: dict[Literal["generator", "verifier", "refiner"], str] = {}

    temperature: float = Field(0.3, ge=0, le=5)
    max_tokens: int | None = Field(None, ge=1, le=_MOST)
    seed: int = Field(0, ge=-(2**63), lt=2**63)
    prompts: dict[str, dict[str, dict[str, str]]] = {}

    grader: Grader = "auto"
    threshold: float = Field(0.5, ge=0, lt=1)
    pooling: Pooling = "global"

    @model_validator(mode="after")
    def _shard_in_range(self) -> "Spec":
        if self.shard is not None:
            index, count = map(int, self.shard.split("/"))
            if not 1 <= index <= count:
                raise ValueError(f"shard {self.shard}: write I/K with I from 1 to K")
        return self

    @field_validator("base_url")
    @classmethod
    def _without_a_key(cls, url: str | None) -> str | None:
        if url is not None and "@" in url:  # it would be stored, and shown to the world
            raise ValueError("keep keys out of the address: export OPENAI_API_KEY=…")
        return url

    @property
    def branching(self) -> tuple[int, int, int]:
        """Samples a parent for generator, verifier, refiner."""
        return (
            self.n_generator or self.n,
            self.n_verifier or self.n,
            self.n_refiner or self.n,
        )

    @property
    def nodes_a_tree(self) -> int:
        """n + n² + n³ where the branching is even (*MALT* §4.2)."""
        g, v, r = self.branching
        return g + g * v + g * v * r

    @property
    def labels(self) -> Labels:
        return Labels(grader=self.grader, threshold=self.threshold, pooling=self.pooling)

    def essence(self) -> dict[str, Any]:
        """The settings that make a tree what it is; builds that differ here do not mix.

        Left out: how many trees (`limit`), where and how fast they are sampled (`base_url`,
        `concurrency`, `shard`), and how they are labelled, which `relabel` may change.
        """
        outside = {"limit", "shard", "base_url", "concurrency", "threshold", "pooling", "n"}
        facts = self.model_dump(exclude=outside)
        if "/" in self.questions and Path(self.questions).suffix:  # the same file, moved
            facts["questions"] = Path(self.questions).name
        facts["n_generator"], facts["n_verifier"], facts["n_refiner"] = self.branching
        return facts


class Run(_Frozen):
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


class Manifest(_Frozen):
    """The content of `forest.json`."""

    format: str = Field(default=CURRENT, alias="schema")
    created: dt.datetime
    malt_data: str
    spec: Spec
    labels: Labels
    regraded: int = Field(0, ge=0)
    """How often all answers were graded again: a part that says less is not yet."""
    questions: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    runs: list[Run] = []

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @property
    def labelled(self) -> Labelled:
        """What every part says of its labels once a relabel is through."""
        return Labelled(**self.labels.model_dump(), regraded=self.regraded)

    def to_json(self) -> str:
        return self.model_dump_json(indent=2, by_alias=True) + "\n"


def make_spec(values: dict[str, Any]) -> Spec:
    """Return a checked Spec; raise SpecError that names each wrong key and value."""
    try:
        return Spec.model_validate(values)
    except ValidationError as error:
        raise SpecError(sentence(error)) from None


def make_labels(old: Labels, asked: dict[str, Any]) -> Labels:
    """Return `old` with what is asked (None: as it was); raise SpecError for impossible values."""
    try:
        changed = {key: value for key, value in asked.items() if value is not None}
        return Labels.model_validate(old.model_dump() | changed)
    except ValidationError as error:
        raise SpecError(sentence(error)) from None


def read_manifest(folder: Path) -> Manifest:
    """Read `folder`/forest.json; raise ForestError where it is missing, torn or too new."""
    path = folder / MANIFEST
    try:
        data = read_json(path)
    except FileNotFoundError:
        raise ForestError(
            f"{folder} holds no forest (no {MANIFEST}). Grow one: malt-data build --out {folder}"
        ) from None
    except (OSError, ValueError) as error:
        raise ForestError(
            f"{path} cannot be read ({error}). Restore it, or build into a new folder; "
            f"the trees in {folder / 'nodes'} are untouched."
        ) from None
    check(data.get("schema"), str(path))
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        raise ForestError(f"{path} is no valid manifest: {sentence(error)}") from None


def sentence(error: ValidationError) -> str:
    """Return what pydantic found as one line: `n: Input should be ≥ 1 (got 0); …`."""
    parts = []
    for issue in error.errors(include_url=False):
        key = ".".join(str(step) for step in issue["loc"])
        if issue["type"] == "extra_forbidden":
            parts.append(f"unknown setting '{key}'")
        else:
            shown = key and key != "base_url"
            got = f" (got {issue['input']!r})" if shown else ""
            parts.append(f"{key + ': ' if key else ''}{issue['msg']}{got}")
    return "; ".join(parts)
