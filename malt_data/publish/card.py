"""Render the dataset card from measured facts.

Each push renders the whole card from a template. The card has no date and no random choice, so an
unchanged forest has the same card and needs no commit. Model texts are shown in fenced blocks
longer than any fence in them and with control characters escaped, so that nothing in them is
interpreted as Markdown, HTML or YAML.

    text = render_card(forest, "me/trees", [config_named("refiner_dpo")])
"""

import io
import json
import re
import shlex
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
import pyarrow as pa

from malt_data import __version__
from malt_data.display import clean, fold
from malt_data.errors import ExportError
from malt_data.exporters.export import ExportReport, read_report
from malt_data.exporters.selection import REASONS
from malt_data.forests.facts import find_tree, stats
from malt_data.forests.forest import Forest
from malt_data.questions.benchmarks import BENCHMARKS
from malt_data.report.tree import print_tree
from malt_data.schemas import layout
from malt_data.schemas.exports import Config
from malt_data.schemas.forest import NODES, QUESTIONS
from malt_data.schemas.pipeline import DEFAULT, SHIPPED, Pipeline
from malt_data.schemas.spec import BuildSpec

_WIDTH = 100
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"),
          (10**7, "1M<n<10M"), (10**8, "10M<n<100M"))  # fmt: skip
_LICENSES = {"mit", "apache-2.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0",
             "cc0-1.0", "odc-by"}  # fmt: skip


def render_card(forest: Forest, repo: str, configs: list[Config]) -> str:
    """Return the README.md of a repo with `forest` and the exports `configs`.

    The exports must be in the forest's folder. Raises ExportError if a fact is missing.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    environment.filters.update(cell=_cell, fenced=_fenced)
    template = environment.from_string(
        resources.files(__package__).joinpath("card.md.jinja").read_text("utf-8")
    )
    try:
        return template.render(**_facts(forest, repo, configs))
    except jinja2.UndefinedError as error:
        raise ExportError(
            f"The card of {forest.folder} needs a missing fact: {error}. Add it to the manifest, "
            "which was not written by malt-data."
        ) from None


def _facts(forest: Forest, repo: str, configs: list[Config]) -> dict[str, Any]:
    reports = {c.name: read_report(forest.folder / layout.EXPORTS / c.name) for c in configs}
    facts = stats(forest)
    spec = forest.manifest.spec
    nodes = sum(row["nodes"] for row in facts["roles"])
    return dict(
        metadata=_metadata(forest, repo, [c for c in configs if reports[c.name].rows], nodes),
        version=__version__,
        repo=repo,
        name=repo.partition("/")[2],
        manifest=forest.manifest,
        spec=spec,
        pipeline=spec.chain,
        leaves=_leaves(spec.chain),
        questions=forest.manifest.questions,
        origin=_origin(spec.questions),
        forest=facts["forest"],
        roles=facts["roles"],
        nodes=nodes,
        models=_models(forest),
        reports=reports,
        reasons=REASONS,
        columns=_columns(forest, reports, configs),
        schemas={"questions": [*map(_row, QUESTIONS)], "nodes": [*map(_row, NODES)]},
        tree=_tree(forest),
        prompts=_prompts(forest),
        rebuild=_rebuild(forest),
        further=_further(forest),
    )


def _columns(
    forest: Forest, reports: Mapping[str, ExportReport], configs: list[Config]
) -> dict[str, list[dict[str, str]]]:
    """Return the columns by format; those with thinking if any config of the format has it."""
    template = forest.manifest.spec.chat_template
    schemas: dict[str, pa.Schema] = {}
    for config in sorted(configs, key=lambda c: reports[c.name].selection.thinking):
        thinking = reports[config.name].selection.thinking
        schemas[config.format.name] = config.schema_for(template, thinking=thinking)
    return {c.format.name: [*map(_row, schemas[c.format.name])] for c in configs}


def _metadata(forest: Forest, repo: str, configs: list[Config], nodes: int) -> str:
    from huggingface_hub import DatasetCardData

    data = [
        {"config_name": "questions", "data_files": _split("train", layout.QUESTIONS)},
        {"config_name": "nodes", "data_files": _split("train", f"{layout.NODES}/part-*.parquet")},
    ]
    for config in configs:
        rows = read_report(forest.folder / layout.EXPORTS / config.name).rows
        files = [
            {"split": split, "path": f"{layout.EXPORTS}/{config.name}/{split}-*.parquet"}
            for split in rows
        ]
        data.append({"config_name": config.name, "data_files": files})
    if configs:  # what the viewer and a bare load_dataset show first
        shown = next((c for c in configs if c.format.name == "dpo"), configs[0])
        next(d for d in data if d["config_name"] == shown.name)["default"] = True  # type: ignore[assignment]
    license_ = str(forest.manifest.questions.get("license") or "").lower()
    card = DatasetCardData(
        license=license_ if license_ in _LICENSES else "other" if license_ else "unknown",
        pretty_name=clean(repo.partition("/")[2]),
        task_categories=["text-generation", "question-answering"],
        size_categories=next((name for limit, name in _SIZES if nodes < limit), "n>1T"),
        tags=["malt-data", "malt", "multi-agent", "reasoning", "sft", "dpo", "trl"],
        configs=data,
    )
    return card.to_yaml()


def _split(split: str, path: str) -> list[dict[str, str]]:
    return [{"split": split, "path": path}]


def _row(field: pa.Field) -> dict[str, str]:
    return {
        "name": field.name,
        "type": str(field.type).partition("<")[0],
        "doc": field.metadata[b"doc"].decode(),
    }


def _origin(source: str) -> str:
    """Return a Markdown reference to a question source."""
    if source in BENCHMARKS:
        repo = BENCHMARKS[source].repo
        return f"[{repo}](https://huggingface.co/datasets/{repo})"
    if source == "embedded":
        return "the questions embedded in malt-data"
    return _cell(source)


def _models(forest: Forest) -> list[dict[str, Any]]:
    query = (
        "SELECT model, adapter, string_agg(DISTINCT role::VARCHAR, ', ' ORDER BY role::VARCHAR) "
        "AS roles FROM nodes GROUP BY ALL ORDER BY ALL"
    )
    return forest.sql(query).to_dicts()


def _tree(forest: Forest) -> str:
    """Return the first tree with both outcomes as text, or the first tree if there is none."""
    from rich.console import Console

    query = (
        "SELECT question_id FROM nodes WHERE reward IS NOT NULL GROUP BY question_id "
        "ORDER BY min(reward) = max(reward), question_id LIMIT 1"
    )
    trees = forest.sql(query)
    if not trees.height:
        return "(no tree yet)"
    stream = io.StringIO()
    console = Console(file=stream, width=_WIDTH, no_color=True, highlight=False)
    print_tree(forest, find_tree(forest, trees.item()), console, width=_WIDTH - 40)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _prompts(forest: Forest) -> str:
    """Return the prompt templates of the forest's question kinds."""
    kinds = forest.sql("SELECT DISTINCT kind FROM questions ORDER BY kind")["kind"]
    parts = []
    for kind in kinds:
        for name, templates in forest.manifest.spec.prompts.get(kind, {}).items():
            for speaker, text in templates.items():
                parts.append(f"# {kind}, {name}, {speaker}\n{clean(text)}")
    return "\n\n".join(parts)


def _rebuild(forest: Forest) -> str:
    """Return the command that rebuilds the forest."""
    spec = forest.manifest.spec
    flags: dict[str, Any] = {
        **_branching(spec),
        "questions": spec.questions,
        "split": spec.split,
        "limit": spec.limit,
        "engine": spec.engine,
        "model": spec.model,
        "temperature": spec.temperature,
        "max-tokens": spec.max_tokens,
        "seed": spec.seed,
        "grader": spec.grader,
    }
    options = [
        f"--{name} {shlex.quote(clean(str(v)))}" for name, v in flags.items() if v is not None
    ]
    return " \\\n    ".join(["malt-data build", *options])


def _further(forest: Forest) -> str:
    """Return what the command of `_rebuild` needs in --config, as JSON; empty if it is nothing."""
    spec, labels = forest.manifest.spec, forest.manifest.labels
    names = ("adapters", "sampling", "chat_template", "engine_options", "fields", "kind")
    chosen = spec.model_dump(mode="json", include={*names}, exclude_defaults=True)
    chosen |= labels.model_dump(include={"threshold", "pooling"}, exclude_defaults=True)
    if spec.adaptive:
        chosen["adaptive"] = spec.adaptive.model_dump()
    return json.dumps(chosen, ensure_ascii=False) if chosen else ""


def _leaves(pipeline: Pipeline) -> list[tuple[str, int]]:
    """Return (role, leaves below a node of it) of every turn but the last."""
    widths = pipeline.widths
    return [
        (turn.role, widths[-1] // width)
        for turn, width in zip(pipeline.turns[:-1], widths[:-1], strict=True)
    ]


def _branching(spec: BuildSpec) -> dict[str, Any]:
    """Return the options of the pipeline; a shipped one is named."""
    name, turns = spec.pipeline.name, spec.chain.turns
    own = name not in SHIPPED
    named = {} if name == DEFAULT else {"pipeline": f"{name}{'.toml' * own}"}
    if len({turn.n for turn in turns}) == 1:
        return {**named, "n": turns[0].n}
    if len({turn.role for turn in turns}) == len(turns):
        return {**named, **{f"n-{turn.role}": turn.n for turn in turns}}
    return {**named, "n": spec.n, **{f"n-{role}": n for role, n in spec.n_by_role.items()}}


def _cell(value: object) -> str:
    """Return a value as one line of Markdown, with markup escaped."""
    if isinstance(value, float):
        return f"{value:.3f}"
    text = "–" if value is None else fold(str(value), 200)
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~$&])", r"\\\1", text)


def _fenced(text: str) -> str:
    """Return a code block with a fence longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
