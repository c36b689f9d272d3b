"""How sure the labels of a forest are.

The true value of a node is the mean of its value over every subtree that could have grown under it.
Its confidence is the probability that this lies on the side of the threshold that its label says,
given all leaves of its tree and a model fitted to the forest (`rates.py`).

Under local pooling a node's value is a mean of its children's labels, so there the model is fitted
to labels instead of rewards, for each turn anew.

    confidence_of(open_forest("forest")).of(nodes)     # nodes: whole trees, as they are stored
"""

from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from pydantic import Base64Bytes

from malt_data.errors import SpecError, StorageError
from malt_data.forests.parts import NodeParts
from malt_data.forests.rates import (
    CELLS,
    EDGES,
    Floats,
    Places,
    Rates,
    Trees,
    fit,
    remember,
    scatter,
)
from malt_data.schemas.forest import NODES
from malt_data.schemas.manifest import Manifest
from malt_data.schemas.model import Field, Model
from malt_data.schemas.spec import Labels
from malt_data.storage.documents import read_json
from malt_data.storage.files import write_text
from malt_data.storage.folders import cache

FITTED_TREES = 1_000
"""The model is fitted to at most so many trees: those with the smallest ids, which are hashes."""
SURE = 0.9
"""A label with less confidence counts as unsure."""
COLUMNS = [
    *("question_id", "node_id", "node", "parent", "depth"),
    *("extra", "reward", "verdict", "value", "label"),
]
"""What must be read of the nodes."""
_OUTER = (0.05, 0.95)
_KEPT = "confidence-2"
"""The folder of kept fits, with the number of the model: what another one found is of no use."""
_TABLE = pa.schema(
    [
        *(NODES.field(name) for name in ("node_id", "question_id")),
        pa.field("role", pa.string()),
        *(NODES.field(name) for name in ("depth", "value", "label")),
        *(pa.field(name, pa.float64()) for name in ("confidence", "low", "high", "bound")),
    ]
)


class Fittable(Protocol):
    """What the model needs of a forest."""

    manifest: Manifest
    parts: NodeParts

    @property
    def done(self) -> set[str]: ...

    def nodes(self) -> pl.LazyFrame: ...

    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Confidence:
    """The fitted model: `rates` of each turn but the last, for labels made as `labels` says."""

    labels: Labels
    rates: tuple[Rates, ...]

    def of(self, nodes: pl.DataFrame) -> pl.DataFrame:
        """Return `nodes` with `confidence`, `low`, `high` and `bound`, in the same order.

        nodes: whole trees with COLUMNS. low, high: an interval that contains the true value with a
        probability of 90 %. bound: 1 − exp(−2n(value − threshold)²), n the number of children, with
        no model (*MALT* §A.6.1). It is Hoeffding's bound at the value that was seen in place of the
        true one, so not a guarantee. All are those of the reward for a leaf, and null for one that
        the grader could not decide.
        """
        nodes = nodes.with_row_index("_row").sort("question_id", "node")
        found = np.full((len(nodes), 3), np.nan)
        for rows, posterior in _posteriors(nodes, self.rates, self.labels):
            found[rows] = _facts(posterior, nodes["label"].to_numpy()[rows], self.labels.threshold)
        names = ("confidence", "low", "high")
        columns = [pl.Series(name, found[:, at]).fill_nan(None) for at, name in enumerate(names)]
        return _with_leaves(nodes.with_columns(*columns), self.labels).sort("_row").drop("_row")


def confidence_of(forest: Fittable) -> Confidence:
    """Return the model of a forest, as it is labelled; the fit is kept in the cache folder."""
    path = _place(forest)
    with suppress(OSError, ValueError, KeyError, SpecError):
        return _Fitted.model_validate(read_json(path)).confidence(forest.manifest.labels)
    fitted = fit_confidence(fitted_nodes(forest), forest.manifest.labels)
    _keep(path, _Fitted.of(fitted))
    return fitted


def _place(forest: Fittable, what: str = "") -> Path:
    """Return the file that keeps what is known of this state of a forest."""
    return cache() / _KEPT / f"{forest.fingerprint()}{what}.json"


def _keep(path: Path, found: Model) -> None:
    with suppress(OSError, StorageError):  # a full disk, somebody else's folder
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, found.model_dump_json() + "\n")


class _Fitted(Model):
    """The content of the file that keeps a fit.

    scatters: of each concentration, in hexadecimal, the bytes of its table, in base 64.
    """

    tops: list[
        Annotated[
            list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=CELLS, max_length=CELLS)
        ]
    ]
    spreads: list[list[Annotated[float, Field(gt=0, le=1e6)]]]
    scatters: dict[str, Base64Bytes]

    @classmethod
    def of(cls, fitted: Confidence) -> "_Fitted":
        tops = [rates.top.tolist() for rates in fitted.rates]
        spreads = [list(rates.spreads) for rates in fitted.rates]
        tables = {s.hex(): b64encode(scatter(s).tobytes()) for row in spreads for s in row}
        return cls(tops=tops, spreads=spreads, scatters=tables)

    def confidence(self, labels: Labels) -> Confidence:
        """Return the model; raise ValueError or KeyError if a table is not one."""
        for s in {s for row in self.spreads for s in row}:
            table = np.frombuffer(self.scatters[s.hex()]).reshape(CELLS, CELLS)
            if not ((table >= 0) & (table <= 1)).all():
                raise ValueError("not chances")
            remember(s, table)
        rates = zip(self.tops, self.spreads, strict=True)
        return Confidence(labels, tuple(Rates(np.array(top), tuple(s)) for top, s in rates))


def fitted_nodes(forest: Fittable) -> pl.DataFrame:
    """Return role and COLUMNS of the trees that the model is fitted to, in tree order."""
    chosen = sorted(forest.done)[:FITTED_TREES]
    last = chosen[-1] if chosen else ""
    nodes = forest.nodes().filter(pl.col("question_id") <= last).select("role", *COLUMNS)
    return nodes.with_columns(pl.col("role").cast(pl.String)).collect().sort("question_id", "node")


def fit_confidence(nodes: pl.DataFrame, labels: Labels) -> Confidence:
    """Fit the model to whole trees with COLUMNS, in tree order."""
    turns = _turns(nodes)
    if labels.pooling == "local":
        rates = tuple(fit(_local(nodes, turn)) for turn in range(1, turns))
    else:
        rates = (fit(_global(nodes)),) * (turns - 1) if turns > 1 else ()
    return Confidence(labels, rates)


def confidence_table(forest: Fittable) -> pa.Table:
    """Return every node of a forest with its confidence: the view `confidence`."""
    model = confidence_of(forest)
    tables = [_TABLE.empty_table()]
    for path in forest.parts.paths():
        nodes = pl.DataFrame(forest.parts.read(path).select(["role", *COLUMNS]))
        nodes = nodes.with_columns(pl.col("role").cast(pl.String))
        tables.append(model.of(nodes).select(_TABLE.names).to_arrow().cast(_TABLE))
    return pa.concat_tables(tables)


def confidence_by_role(forest: Fittable) -> dict[str, dict[str, float | None]]:
    """Return role → mean confidence and share of unsure labels, in the trees of the fit.

    They are kept like the fit.
    """
    path = _place(forest, "-roles")
    with suppress(OSError, ValueError, SpecError):
        return _ByRole.model_validate(read_json(path)).facts()
    nodes = confidence_of(forest).of(fitted_nodes(forest))
    facts = nodes.group_by("role").agg(
        mean_confidence=pl.col("confidence").mean(),
        share_unsure=(pl.col("confidence") < SURE).mean(),
    )
    found = _ByRole(roles={row.pop("role"): row for row in facts.to_dicts()})
    _keep(path, found)
    return found.facts()


class _OfRole(Model):
    mean_confidence: float | None = Field(ge=0, le=1)
    share_unsure: float | None = Field(ge=0, le=1)


class _ByRole(Model):
    """The content of the file that keeps what `confidence_by_role` found."""

    roles: dict[str, _OfRole]

    def facts(self) -> dict[str, dict[str, float | None]]:
        return {role: facts.model_dump() for role, facts in self.roles.items()}


def _turns(nodes: pl.DataFrame) -> int:
    return int(nodes["depth"].max() or 1)  # type: ignore[arg-type]


def _global(nodes: pl.DataFrame) -> Trees:
    return Trees.of(nodes.with_columns(_earned=_decided(pl.col("reward"))), "_earned")


def _local(nodes: pl.DataFrame, turn: int) -> Trees:
    earned = _decided(pl.col("label").cast(pl.Float64))
    cut = nodes.filter(pl.col("depth") <= turn + 1).with_columns(_earned=earned)
    return Trees.of(cut, "_earned")


def _decided(earned: pl.Expr) -> pl.Expr:
    """Return it, or null for a leaf that the grader could not decide."""
    undecided = pl.col("reward").is_not_null() & (pl.col("verdict") == "timeout")
    return pl.when(~undecided).then(earned)


def _posteriors(
    nodes: pl.DataFrame, rates: tuple[Rates, ...], labels: Labels
) -> list[tuple[Places, Floats]]:
    """Return the rows of each turn but the last, and the distributions of their true values."""
    if not rates or nodes.is_empty():
        return []
    if labels.pooling == "global":
        trees = _global(nodes)
        return list(zip(trees.rows, rates[0].posterior(trees), strict=True))
    found = []
    depth = nodes["depth"].to_numpy()
    for turn, fitted in enumerate(rates, 1):
        last = fitted.posterior(_local(nodes, turn))[-1]
        found.append((np.flatnonzero(depth == turn), last))
    return found


def above(posterior: Floats, threshold: float) -> Floats:
    """Return the probability that each node's true value is above the threshold."""
    upto = np.concatenate([np.zeros((len(posterior), 1)), posterior.cumsum(axis=1)], axis=1)
    cell, rest = divmod(threshold * CELLS, 1)
    at = upto[:, int(cell)] + rest * (upto[:, int(cell) + 1] - upto[:, int(cell)])
    return np.asarray(np.clip(1 - at, 0, 1))


def _facts(posterior: Floats, label: npt.NDArray[np.bool_], threshold: float) -> Floats:
    """Return confidence, low and high of some nodes: nodes × 3."""
    positive = above(posterior, threshold)
    upto = posterior.cumsum(axis=1)
    outer = [(upto < side).sum(axis=1) for side in _OUTER]
    low, high = EDGES[outer[0]], EDGES[np.minimum(outer[1] + 1, CELLS)]
    return np.stack([np.where(label, positive, 1 - positive), low, high], axis=1)


def _with_leaves(nodes: pl.DataFrame, labels: Labels) -> pl.DataFrame:
    """Add `bound`, and fill in what is certain of leaves."""
    children = (
        nodes.filter(~pl.col("extra") & pl.col("parent").is_not_null())
        .group_by("question_id", node="parent")
        .agg(_children=pl.len())
    )
    nodes = nodes.join(children, on=["question_id", "node"], how="left", maintain_order="left")
    apart = pl.col("value") - labels.threshold
    leaf = pl.col("reward").is_not_null()
    decided = leaf & (pl.col("verdict") != "timeout")
    sure = {"confidence": pl.lit(1.0), "low": pl.col("reward"), "high": pl.col("reward")}
    nodes = nodes.with_columns(bound=1 - (-2 * pl.col("_children") * apart**2).exp())
    for name, known in {**sure, "bound": pl.lit(1.0)}.items():
        value = pl.when(decided).then(known).when(~leaf).then(name)
        nodes = nodes.with_columns(value.alias(name))
    return nodes.drop("_children")
