"""Benchmarks by name, and where they live on the Hub. To add one, add a record to BENCHMARKS."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from malt_data.questions.files import Row
from malt_data.questions.hub import dataset_rows, download, hub_errors, look_up
from malt_data.questions.source import Source, pick_split


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark lives on the Hub; `aliases` maps alternative split names to real ones."""

    repo: str
    configs: tuple[str | None, ...]
    splits: tuple[str, ...]
    license: str
    kind: str
    aliases: Mapping[str, str] = field(default_factory=dict)


_MATH_SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory",
    "prealgebra", "precalculus",
)  # fmt: skip


def _symbolic(config: str) -> Benchmark:
    return Benchmark("apple/GSM-Symbolic", (config,), ("test",), "CC-BY-NC-ND-4.0", "numeric")


BENCHMARKS = {
    "gsm8k": Benchmark("openai/gsm8k", ("main",), ("train", "test"), "MIT", "numeric"),
    "math": Benchmark(
        "EleutherAI/hendrycks_math", _MATH_SUBJECTS, ("train", "test"), "MIT", "math"
    ),
    "math500": Benchmark("HuggingFaceH4/MATH-500", (None,), ("test",), "MIT", "math"),
    # The test split has no answers, so MALT (§5.1), like everyone else, tests on validation.
    "csqa": Benchmark(
        "tau/commonsense_qa",
        (None,),
        ("train", "validation"),
        "MIT",
        "choice",
        {"test": "validation"},
    ),
    "gsm-symbolic": _symbolic("main"),
    "gsm-symbolic-p1": _symbolic("p1"),
    "gsm-symbolic-p2": _symbolic("p2"),
}


def open_benchmark(name: str, split: str | None) -> Source:
    """Open one split of the benchmark `name`, pinned to the dataset's current commit."""
    benchmark = BENCHMARKS[name]
    chosen = pick_split(split, list(benchmark.splits), name, benchmark.aliases)
    note = f"{name}: using split {chosen} for {split}."
    with hub_errors(benchmark.repo):
        commit = look_up(benchmark.repo, None)

    def rows() -> Iterator[Row]:
        for config in benchmark.configs:  # lazily: a limit may stop before the last config
            with hub_errors(benchmark.repo):
                splits = download(benchmark.repo, config, commit)
            yield from dataset_rows(splits[chosen], f"{name}{f'/{config}' if config else ''}")

    notes = (note,) if split not in (None, chosen) else ()
    return Source(
        name, chosen, rows(), benchmark.license, notes=(*notes, *commit.notes), kind=benchmark.kind
    )
