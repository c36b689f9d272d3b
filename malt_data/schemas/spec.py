"""What a command can be asked: the settings of a build and of an evaluation, group by group.

`BuildSpec` and `EvalSpec` are what `--config` files are checked against, each composed of the
groups that it really uses; a build's stands in `forest.json` in full, prompts included, so that a
forest says by itself how to grow it again.

    >>> BuildSpec(n=2, n_refiner=3).branching
    (2, 2, 3)
    >>> EvalSpec(threshold=0.7)
    Traceback (most recent call last):
    malt_data.errors.SpecError: unknown setting 'threshold'
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from malt_data.schemas.model import Field, Model
from malt_data.schemas.roles import Role

_MOST = 10**9
"""Above any count that could be meant, below what the libraries take."""

Pooling = Literal["global", "local"]


class QuestionSpec(Model):
    """Which questions."""

    questions: str = Field("embedded", min_length=1)
    split: str | None = None
    limit: int | None = Field(None, ge=1, le=_MOST)
    fields: dict[str, str] = {}
    kind: str | None = None
    """Of free-form questions whose source names none; None: one rule over the source decides."""


class TreeSpec(Model):
    """Which trees: the branching, the adapter of each role, the seed. Defaults: *MALT* §4.2."""

    shard: str | None = Field(None, pattern=r"^[0-9]{1,9}/[0-9]{1,9}$")
    n: int = Field(3, ge=1, le=64)
    n_generator: int | None = Field(None, ge=1, le=64)
    n_verifier: int | None = Field(None, ge=1, le=64)
    n_refiner: int | None = Field(None, ge=1, le=64)
    adapters: dict[Role, str] = {}
    seed: int = Field(0, ge=-(2**63), lt=2**63)

    @model_validator(mode="after")
    def _shard_in_range(self) -> Self:
        if self.shard is not None:
            index, count = map(int, self.shard.split("/"))
            if not 1 <= index <= count:
                raise ValueError(f"shard {self.shard}: write I/K with I from 1 to K")
        return self

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


class SamplingSpec(Model):
    """What samples, and how. Temperature: *MALT* §A.9."""

    engine: str = "transformers"
    model: str | None = None
    base_url: str | None = None
    concurrency: int | None = Field(None, ge=1, le=4096)
    temperature: float = Field(0.3, ge=0, le=5)
    max_tokens: int | None = Field(None, ge=1, le=_MOST)
    prompts: dict[str, dict[str, dict[str, str]]] = {}

    @field_validator("base_url")
    @classmethod
    def _without_a_key(cls, url: str | None) -> str | None:
        if url is not None and "@" in url:  # it would be stored, and shown to the world
            raise ValueError("keep keys out of the address: export OPENAI_API_KEY=…")
        return url


class GraderSpec(Model):
    """How answers are read and compared: auto, by each question's kind, or a kind for all."""

    grader: str = Field("auto", min_length=1)


class LabelSpec(GraderSpec):
    """How values become labels (*MALT* §4.2, §A.5)."""

    threshold: float = Field(0.5, ge=0, lt=1)
    pooling: Pooling = "global"


class Labels(LabelSpec):
    """How the answers of a forest were graded and its values turned into labels."""

    def updated(self, **changes: Any) -> "Labels":
        """Return these labels with some of the settings changed; raise SpecError for bad values."""
        return Labels(**{name: getattr(self, name) for name in Labels.model_fields} | changes)

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


class EvalSpec(GraderSpec, SamplingSpec, QuestionSpec):
    """Everything an evaluation, or one question to a team, can be asked."""


class BuildSpec(LabelSpec, SamplingSpec, TreeSpec, QuestionSpec):
    """Everything a build can be asked."""

    @property
    def labels(self) -> Labels:
        return Labels(grader=self.grader, threshold=self.threshold, pooling=self.pooling)

    def identity(self) -> dict[str, Any]:
        """Return the settings that make a tree what it is; builds that differ here do not mix.

        Left out: how many trees (`limit`), where and how fast they are sampled (`base_url`,
        `concurrency`, `shard`), and how they are labelled, which `relabel` may change.
        """
        outside = {"limit", "shard", "base_url", "concurrency", "threshold", "pooling", "n"}
        facts = self.model_dump(exclude=outside)
        if "/" in self.questions and Path(self.questions).suffix:  # the same file, moved
            facts["questions"] = Path(self.questions).name
        facts["n_generator"], facts["n_verifier"], facts["n_refiner"] = self.branching
        return facts
