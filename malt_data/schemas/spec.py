"""The settings of builds and evaluations, in groups.

`BuildSpec` and `EvalSpec` validate options and `--config` files; each is composed of the groups
that it uses. The complete spec of a build, including prompts, is stored in `forest.json`, so a
forest records how to grow it again.

    >>> BuildSpec(n=2, n_refiner=3).chain.branching
    (2, 2, 3)
    >>> EvalSpec(threshold=0.7)
    Traceback (most recent call last):
    malt_data.errors.SpecError: unknown setting 'threshold'
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from malt_data.schemas.model import Field, Model, require_storable
from malt_data.schemas.pipeline import ChatTemplate, Pipeline, Prompts, require_role, shipped

_MAX = 10**9
"""Larger than any sensible count, smaller than the limits of the libraries."""

ADAPTIVE_N = 2
"""Samples per parent before extras; benchmarks/adaptive.py measures what it yields."""

Pooling = Literal["global", "local"]

IMPORTED = "imported"
"""The engine of completions that something else sampled."""

_SECRETS = {"api_key", "token", "hf_token", "password", "default_headers", "extra_headers"}
_OURS = {
    *("model", "messages", "prompt", "n", "seed", "temperature", "max_tokens", "stream"),
    *("max_completion_tokens", "chat_template_kwargs", "stream_options"),
}
_PLACEMENT = {
    *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"),
    *("distributed_executor_backend", "device_map", "device", "gpu_memory_utilization"),
    *("kv_cache_memory_bytes", "cpu_offload_gb", "swap_space", "block_size", "max_model_len"),
    *("max_num_seqs", "max_num_batched_tokens", "enable_prefix_caching", "enable_chunked_prefill"),
    *("enforce_eager", "compilation_config", "disable_log_stats", "load_format", "download_dir"),
    *("num_gpus", "max_retries", "timeout_s", "backoff_s"),
}
"""Engine options that say where and how fast, but not what is sampled."""


class QuestionSpec(Model):
    """Which questions to ask."""

    questions: str = Field("embedded", min_length=1)
    split: str | None = None
    limit: int | None = Field(None, ge=1, le=_MAX)
    fields: dict[str, str] = {}
    kind: str | None = None
    """Kind of free-form questions whose source does not give one; None: detect it."""


class PipelineSpec(Model):
    """Who speaks after whom (*MALT* §4.1)."""

    pipeline: Pipeline = Field(default_factory=shipped)

    @field_validator("pipeline", mode="before")
    @classmethod
    def _by_name(cls, pipeline: Any) -> Any:
        return shipped(pipeline) if isinstance(pipeline, str) else pipeline


class Adaptive(Model):
    """When an adaptive build samples on at a parent; builders/adaptive.py applies it."""

    least: float = Field(0.1, gt=0, le=64)
    """The fewest pairs that an extra child may promise for each completion that it costs."""
    most: int = Field(24, ge=1, le=64)
    """The most extra children of a parent."""
    prior: float = Field(4.0, gt=0, le=100)
    """How many children of a parent the rest of its tree is worth, to estimate their labels."""


class TreeSpec(PipelineSpec):
    """Which trees to grow: branching, adapters, seed. Defaults: *MALT* §4.2.

    `n_ROLE` may be given for each role of the pipeline, e.g. `n_verifier=2`.
    """

    shard: str | None = Field(None, pattern=r"^[0-9]{1,9}/[0-9]{1,9}$")
    n: int | None = Field(None, ge=1, le=64)
    """Samples per parent in every turn; None: as in the pipeline."""
    n_by_role: dict[str, Annotated[int, Field(ge=1, le=64)]] = {}
    """Samples per parent by role; overrides `n`."""
    adapters: dict[str, str] = {}
    """The LoRA adapter of each role; a role without one uses the base model."""
    seed: int = Field(0, ge=-(2**63), lt=2**63)

    @model_validator(mode="before")
    @classmethod
    def _collect_branching(cls, values: Any) -> Any:
        """Move `n_ROLE` into `n_by_role`; None there means not given."""
        if not isinstance(values, dict):
            return values
        by_role, kept = {}, {}
        for key, value in values.items():
            if key.startswith("n_") and key != "n_by_role":
                by_role[key.removeprefix("n_")] = value
            else:
                kept[key] = value
        if by_role:
            given = {role: n for role, n in by_role.items() if n is not None}
            named = kept.get("n_by_role", {})
            if isinstance(named, dict):  # anything else is refused as it is
                kept["n_by_role"] = {**named, **given}
        return kept

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.shard is not None:
            index, count = map(int, self.shard.split("/"))
            if not 1 <= index <= count:
                raise ValueError(f"shard must be I/K with I from 1 to K, not {self.shard}")
        self.chain  # noqa: B018 - raises SpecError for an unknown role
        for role in self.adapters:
            require_role(role, self.pipeline.roles, "adapters: ")
        return self

    @property
    def chain(self) -> Pipeline:
        """The pipeline with the branching of this build."""
        return self.pipeline.sampled(self.n, self.n_by_role)


class SamplingSpec(Model):
    """How to sample: engine, model, temperature (*MALT* §A.9), prompts."""

    engine: str = "transformers"
    model: str | None = None
    base_url: str | None = None
    concurrency: int | None = Field(None, ge=1, le=4096)
    """Requests or sequences in flight; None: as many as the engine bears."""
    replicas: int | None = Field(None, ge=1, le=4096)
    """Copies of the engine, as Ray actors; None: one, in this process."""
    ray: str | None = None
    """Address of a Ray cluster for the replicas, or `auto`; None: one on this machine."""
    engine_options: dict[str, Any] = {}
    """Options of the engine, as it calls them: the table `[engine]` of a `--config` file."""
    temperature: float = Field(0.3, ge=0, le=5)
    max_tokens: int | None = Field(None, ge=1, le=_MAX)
    sampling: dict[str, Any] = {}
    """Further sampling parameters, as the engine calls them: top_p, top_k, min_p, stop, …"""
    chat_template: ChatTemplate = ChatTemplate()
    prompts: Prompts = {}

    @field_validator("base_url")
    @classmethod
    def _refuse_credentials(cls, url: str | None) -> str | None:
        if url is not None and "@" in url:  # it would be stored and published
            raise ValueError("leave credentials out of the URL: export OPENAI_API_KEY=…")
        return url

    @field_validator("engine_options", "sampling")
    @classmethod
    def _refuse_ours(cls, options: dict[str, Any]) -> dict[str, Any]:
        if secret := _SECRETS & {*options}:  # they would be stored and published
            raise ValueError(f"leave {min(secret)} out: pass it in the environment")
        if ours := _OURS & {*options}:
            raise ValueError(f"{min(ours)} has a setting or a table of its own")
        require_storable(options)
        return options

    @field_validator("sampling")
    @classmethod
    def _check_stop(cls, sampling: dict[str, Any]) -> dict[str, Any]:
        stop = sampling.get("stop", [])
        stops = [stop] if isinstance(stop, str) else stop
        if not (isinstance(stops, list) and all(isinstance(each, str) and each for each in stops)):
            raise ValueError("stop is not a string or a list of strings")
        return sampling

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings at which a completion ends: the chat template's, then those of `sampling`."""
        more = self.sampling.get("stop", ())
        return (*self.chat_template.stop, *([more] if isinstance(more, str) else more))

    @property
    def request_options(self) -> dict[str, Any]:
        """Return what every request carries: the fields of `engines.Request` by name."""
        sampling = {name: value for name, value in self.sampling.items() if name != "stop"}
        return {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens or 0,
            "stop": self.stop,
            "sampling": sampling,
            "template": self.chat_template.variables,
        }

    @property
    def sampled_by(self) -> dict[str, Any]:
        """The engine options that may change what is sampled, not only how fast."""
        return {k: v for k, v in self.engine_options.items() if k not in _PLACEMENT}


class GraderSpec(Model):
    """How to grade: by each question's kind (auto), one kind for all, or FILE.py:function."""

    grader: str = Field("auto", min_length=1)


class GraderLimitSpec(Model):
    """How long a grader of the user's own may take."""

    grader_timeout: float = Field(60.0, gt=0, le=86_400)
    """Seconds for one completion."""


class LabelSpec(GraderSpec):
    """How to turn values into labels (*MALT* §4.2, §A.5)."""

    threshold: float = Field(0.5, ge=0, lt=1)
    pooling: Pooling = "global"


class Labels(LabelSpec):
    """How a forest was graded and labelled."""

    def footer(self) -> bytes:
        """Return the JSON that is stored in the footer of a part."""
        return self.model_dump_json().encode()


class Labelled(Labels):
    """The labels of a part; after an interrupted relabel, parts differ in them.

    regraded: how often all answers of the forest had been graded again.
    """

    regraded: int = Field(0, ge=0)

    def footer(self) -> bytes:
        # Omit the newer field if it is 0, so that older footers stay byte-equal.
        return self.model_dump_json(exclude=None if self.regraded else {"regraded"}).encode()


class EvalSpec(GraderLimitSpec, GraderSpec, SamplingSpec, PipelineSpec, QuestionSpec):
    """All settings of an evaluation, or of one question to a team."""


class Budget(Model):
    """Where a build stops. It is no part of what a forest is, and is not stored."""

    max_tokens_total: int | None = Field(None, ge=1, le=10**15)
    """Tokens of the whole forest, prompts included, as the engine counts them."""
    max_pairs: int | None = Field(None, ge=1, le=10**15)
    """Usable pairs of the whole forest, of all roles."""
    max_hours: float | None = Field(None, gt=0, le=10**6)
    """Hours of this run."""


class ImportSpec(GraderLimitSpec, LabelSpec, PipelineSpec):
    """All settings of an import.

    temperature, max_tokens: not how the completions were sampled, which only their files may say,
    but how a team that is trained on them will be.
    """

    split: str = Field("train", min_length=1)
    """Split of the questions whose rows do not say it."""
    kind: str | None = None
    fields: dict[str, str] = {}
    roles: dict[str, str] = {}
    """The role of the pipeline for a speaker whom the files call something else."""
    model: str | None = None
    """The model of the completions whose rows do not say it."""
    temperature: float = Field(0.3, ge=0, le=5)
    max_tokens: int = Field(1024, ge=1, le=_MAX)
    chat_template: ChatTemplate = ChatTemplate()
    prompts: Prompts = {}


class BuildSpec(GraderLimitSpec, LabelSpec, SamplingSpec, TreeSpec, QuestionSpec):
    """All settings of a build."""

    adaptive: Adaptive | None = None
    """When to sample on where a label is lacking, from trees of n = 2 by default; None: never."""

    @model_validator(mode="before")
    @classmethod
    def _default_base(cls, values: Any) -> Any:
        """Read true as the default rule, and start from small trees."""
        if not isinstance(values, dict) or values.get("adaptive") is None:
            return values
        if values["adaptive"] is False:
            return values | {"adaptive": None}
        rule = {} if values["adaptive"] is True else values["adaptive"]
        n = ADAPTIVE_N if values.get("n") is None else values["n"]
        return values | {"adaptive": rule, "n": n}

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `adaptive` unless it is set, as older versions refuse what is unknown."""
        values: dict[str, Any] = serialize(self)
        return {name: value for name, value in values.items() if name != "adaptive" or value}

    @property
    def labels(self) -> Labels:
        return Labels(grader=self.grader, threshold=self.threshold, pooling=self.pooling)

    @property
    def imported(self) -> bool:
        """Whether something else sampled the trees: they have at most the pipeline's branching."""
        return self.engine == IMPORTED

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine a tree; builds that differ in them cannot be mixed.

        Not included: the number of trees (`limit`), where and how fast they are sampled
        (`base_url`, `concurrency`, `replicas`, `shard`, …), and labels, which `relabel` may change.
        """
        excluded = {"limit", "shard", "threshold", "pooling"}
        excluded |= {"base_url", "concurrency", "replicas", "ray"}
        excluded |= {"n", "n_by_role", "pipeline", "grader_timeout"}
        settings = self.model_dump(exclude=excluded) | {"engine_options": self.sampled_by}
        if "/" in self.questions and Path(self.questions).suffix:  # the same file, moved
            settings["questions"] = Path(self.questions).name
        settings["adaptive"] = settings.get("adaptive", False)  # None would mean: not given
        return settings | {"pipeline": str(self.chain), "aliases": self.chain.aliases}
