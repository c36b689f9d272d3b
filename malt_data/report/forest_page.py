"""The page of a forest: an overview in numbers and charts, and its trees to read.

    page, shown = forest_page(open_forest("forest"))
    write_page(Path("report.html"), page)

The overview is of the whole forest. The trees are those with the smallest ids, which are hashes and
so a sample without a bias, up to a number of bytes that browsers open at once.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import polars as pl

from malt_data.errors import ForestError
from malt_data.exporters.export import exports_of
from malt_data.exporters.selection import REASONS
from malt_data.forests.confidence import FITTED_TREES, SURE, confidence_by_role
from malt_data.forests.forest import Forest
from malt_data.report.page import BUDGET, OnProgress, Page, fill, pack
from malt_data.report.sections import listed, query, section, table
from malt_data.report.trees import NODE, TreeReader

_TREES_A_BLOCK = 64
_SURE = f"""SELECT role, round(avg(confidence), 9) AS mean_confidence,
    avg((confidence < {SURE})::DOUBLE) AS share_unsure
FROM confidence
WHERE question_id <= '{{last}}'
GROUP BY role
ORDER BY min(depth)"""


def forest_page(
    forest: Forest,
    budget: int = BUDGET,
    title: str | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> tuple[Page, int]:
    """Return the page of a forest and how many trees fit the budget, in bytes.

    The forest must not change meanwhile: call it under `forest.reading()`. Raises ForestError if it
    has no trees.
    """
    forest.require_labelled()
    ids = sorted(forest.done)
    if not ids:
        raise ForestError(f"{forest.folder} has no trees yet. Grow some: malt-data build")
    blocks, shown, large = _blocks(forest, ids, budget, on_progress)
    last = max(shown, default="")
    index = forest.sql(query("index"), [last]).filter(pl.col("id").is_in(list(shown)))
    index = index.with_columns(unsure=pl.col("id").replace_strict(shown, return_dtype=pl.Int64))
    facts = {
        "tables": _tables(forest, ids),
        "settings": _settings(forest),
        "runs": [run.model_dump(mode="json") for run in forest.manifest.runs],
        "exports": _exports(forest),
        "roles": [turn.role for turn in forest.manifest.spec.pipeline.turns],
        "threshold": forest.manifest.labels.threshold,
        "sample": {"shown": len(shown), "trees": len(ids), "too_large": large, "budget": budget},
        "trees_a_block": _TREES_A_BLOCK,
        "sure": SURE,
        "reasons": REASONS,
    }
    columns = {name: index[name].to_list() for name in index.columns}
    page = Page(
        "forest", title or forest.folder.resolve().name, facts, [pack(columns), *blocks], len(ids)
    )
    return page, len(shown)


def _blocks(
    forest: Forest, ids: list[str], budget: int, on_progress: OnProgress
) -> tuple[list[bytes], dict[str, int], int]:
    """Return blocks of trees that fit the budget, their id → number of unsure labels, and how many
    trees were too large: would take more than a quarter of the budget.
    """
    read: dict[str, int] = {}
    large = 0

    def groups() -> Iterator[list[Any]]:
        nonlocal large
        group: list[Any] = []
        for name, tree, size in _sized(forest, ids, budget):
            if size > budget // 4:
                large += 1
                continue
            read[name] = _unsure(tree)
            group.append(tree)
            if len(group) == _TREES_A_BLOCK:
                yield group
                group = []
        yield group

    blocks, shown = fill(groups(), budget, lambda done: on_progress(done, len(ids)))
    return blocks, dict(islice(read.items(), shown)), large


def _sized(forest: Forest, ids: list[str], budget: int) -> Iterator[tuple[str, Any, int]]:
    """Yield (id, tree, its packed bytes) by id; 0 bytes for one too small to matter.

    Trees are read in batches, each in one pass over the parts: as many as would fill the budget
    twice at their stored size.
    """
    stored = sum(path.stat().st_size for path in forest.parts.paths()) // len(ids)
    batch = max(_TREES_A_BLOCK, 2 * budget // max(1, stored))
    with TreeReader(forest) as reader:
        for start in range(0, len(ids), batch):
            for name, tree in reader.read(ids[start : start + batch]):
                texts = sum(len(node[0]) + len(node[1] or "") for node in tree["nodes"])
                yield name, tree, len(pack(tree)) if 4 * texts > budget // 4 else 0


def _unsure(tree: dict[str, Any]) -> int:
    """Return how many labels of a tree are unsure."""
    sure = (node[NODE.index("confidence")] for node in tree["nodes"])
    return sum(confidence is not None and confidence < SURE for confidence in sure)


def _confidence(forest: Forest, last: str) -> dict[str, Any]:
    """Return what `_SURE` gives, without the confidence of all trees."""
    sure = confidence_by_role(forest)
    roles = [role for role in forest.manifest.spec.pipeline.roles if role in sure]
    frame = pl.DataFrame([{"role": role, **sure[role]} for role in roles])
    if roles:
        frame = frame.with_columns(pl.col("mean_confidence").round(9))
    return table("confidence", "Confidence", frame, query=_SURE.format(last=last))


def _tables(forest: Forest, ids: list[str]) -> list[dict[str, Any]]:
    return [
        section(forest, "forest", "Trees", "FROM forest_stats"),
        section(forest, "roles", "Roles", "FROM role_stats"),
        section(forest, "values", "Values", query("values")),
        section(forest, "verdicts", "Verdicts", "FROM verdicts"),
        section(forest, "lengths", "Lengths of pairs", query("lengths")),
        _confidence(forest, ids[:FITTED_TREES][-1]),
    ]


def _settings(forest: Forest) -> list[tuple[str, str]]:
    """Return the settings of the build and of the labels."""
    spec = forest.manifest.spec.model_dump(mode="json", exclude={"prompts", "pipeline"})
    turns = forest.manifest.spec.pipeline.turns
    return listed(
        {
            "pipeline": " → ".join(f"{turn.role} × {turn.n}" for turn in turns),
            **spec,
            **forest.manifest.labels.model_dump(mode="json"),
            "created": forest.manifest.created.isoformat(timespec="seconds"),
            "malt-data": forest.manifest.malt_data,
        }
    )


def _exports(forest: Forest) -> dict[str, Any]:
    """Return a table of the exports: rows, and what each left out by reason."""
    reports = {} if forest.origin else exports_of(forest)
    rows = [
        {"export": name, **report.rows, "left out": sum(report.dropped.values()),
         "why": ", ".join(f"{reason}: {count}" for reason, count in report.dropped.items())}
        for name, report in reports.items()
    ]  # fmt: skip
    return table("exports", "Exports", pl.DataFrame(rows))
