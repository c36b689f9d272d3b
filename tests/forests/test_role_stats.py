"""What `stats` counts from columns is what SQL counts over the views."""

import math
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from synthetic import make_forest

from malt_data.forests.facts import stats
from malt_data.forests.forest import Forest
from malt_data.forests.labels import stamped
from malt_data.forests.role_stats import role_stats


def change(forest: Forest, **columns: pl.Expr) -> None:
    for path in forest.parts.paths():
        nodes = pl.DataFrame(pq.read_table(path)).with_columns(**columns)
        forest.parts.rewrite(path, stamped(nodes, forest.manifest.labels))


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert [*found] == [*expected]
    for name, value in expected.items():
        assert type(found[name]) is type(value), name
        if isinstance(value, float):
            assert math.isclose(found[name], value, rel_tol=1e-12), name
        else:
            assert found[name] == value, name


@pytest.mark.parametrize("n", [(2, 3, 2), (1, 1, 1), (3, 3, 3)])
@pytest.mark.parametrize("order", ["as written", "shuffled"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_counting_columns_gives_what_sql_gives(
    tmp_path: Path, n: tuple[int, ...], order: str, adaptive: bool
) -> None:
    forest = make_forest(tmp_path / "f", trees=9, n=n, timeouts=0.1, adaptive=adaptive or None)
    odd = pl.int_range(pl.len()) % 7
    change(
        forest,
        extra=pl.lit(adaptive) & (pl.col("sample") > 0),
        latency=pl.when(odd != 3).then(pl.col("latency").fill_null(0.1) + odd),
        prompt_tokens=pl.when(odd != 4).then(pl.col("prompt_tokens")),
        finish_reason=pl.when(odd == 5).then(pl.lit("length")).otherwise("finish_reason"),
    )
    if order == "shuffled":
        for path in forest.parts.paths():
            nodes = pl.DataFrame(pq.read_table(path)).sample(fraction=1, shuffle=True, seed=1)
            forest.parts.rewrite(path, stamped(nodes, forest.manifest.labels))
    found = role_stats(forest)
    same(found.forest, forest.sql("FROM forest_stats").row(0, named=True))
    credit = {row.pop("role"): row for row in forest.sql("FROM credit").to_dicts()}
    judging = {"positive_if_right": None, "positive_if_wrong": None}
    expected = [
        row | {name: credit.get(row["role"], judging)[name] for name in judging}
        for row in forest.sql("FROM role_stats").to_dicts()
    ]
    for row, wanted in zip(found.roles, expected, strict=True):
        same(row, wanted)
    assert (sum(row["extra"] for row in found.roles) > 0) == (adaptive and n != (1, 1, 1))


def test_a_forest_without_trees_has_no_roles(tmp_path: Path) -> None:
    facts = stats(make_forest(tmp_path / "f", trees=0))
    assert facts["roles"] == []
    assert facts["forest"]["trees"] == 0
    assert facts["forest"]["fix_rate"] is None
