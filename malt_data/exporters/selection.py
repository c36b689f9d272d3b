"""Select which nodes and pairs become rows, with a reason for each one that does not.

A rule is a reason and a SQL condition on the candidates; a candidate gets the reason of the first
rule that matches. No rule looks across questions, so the result does not depend on how trees are
distributed over parts, and a seed gives the same rows everywhere.

    >>> from malt_data.schemas.exports import config_named
    >>> [name for name, _ in rules(config_named("refiner_dpo"), Selection(strategy="one"))]
    ['ungraded', 'identical', 'truncated', 'strategy']
"""

from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from malt_data.schemas.exports import Config, Positives, Strategy
from malt_data.schemas.model import Field, Model

UNFIT = {
    "refused_by_template": "the chat template rejects its messages",
    "not_a_prefix": "its prompt is not a prefix of prompt and text in the model's tokens; if the "
    "chat template opens a thought, export with thinking = true",
    "too_long": "longer than max_length or the model's context",
}
"""Reason why a row does not fit a model (`fit.py`) → meaning; it gets the first that applies."""


class Selection(Model):
    """What to leave out of an export; the defaults only leave out what is useless for training."""

    strategy: Strategy = "all"
    """dpo, per parent: every pair, the highest against the lowest value, or one at random."""
    margin: float = Field(0.0, ge=0, le=1)
    """dpo: minimum difference between the two values."""
    positives: Positives = "all"
    """all: every positive (Algorithm 1). paired: those with a negative sibling, the positives of
    D_G, D_V and D_R (§4.3). mixed: those whose question has a negative of the role. An ungraded
    node does not count as a negative."""
    max_per_parent: int | None = Field(None, ge=1, le=10**9)
    max_per_question: int | None = Field(None, ge=1, le=10**9)
    keep_truncated: bool = False
    """Keep positive texts that were truncated at the token limit."""
    keep_ungraded: bool = False
    """Keep nodes whose value depends on an answer that the grader could not decide. Such an answer
    counts as wrong (Algorithm 1), although it may be right. By default these nodes are left out,
    even if the answer could not have changed their label."""
    keep_identical: bool = False
    """Keep a text that is both a positive and a negative sibling."""
    drop_duplicates: bool = False
    """Keep only one row if siblings have the same text."""
    min_confidence: float = Field(0.0, ge=0, le=1)
    """Leave out nodes whose label is right with a lower probability (`forests/confidence.py`), and
    pairs with such a node."""
    thinking: bool = False
    """Write what a reasoning model thought before a text with it: as `reasoning_content` of its
    message, which most chat templates read; in plain text before it, within <think> tags.
    Prompts never have thinking, and neither have trajectories, which join the texts of a path.
    Two texts are compared without it."""
    tokenizer: str | None = Field(None, min_length=1)
    """Leave out rows that do not fit the chat template and context of this model or tokenizer."""
    max_length: int | None = Field(None, ge=1, le=10**9)
    """Leave out rows with more tokens; counted by the forest's model if `tokenizer` is not set."""
    validation: float = Field(0.1, ge=0, lt=1)
    """Fraction of questions to hold out, by a hash of their ids; same for all roles and formats."""
    seed: int = Field(0, ge=-(2**63), lt=2**63)

    @property
    def border(self) -> str:
        """Upper bound (8 hex digits) on the hashes of the questions held out."""
        return f"{int(self.validation * 16**8):08x}"

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is newer unless it is selected, as older versions refuse the unknown."""
        values: dict[str, Any] = serialize(self)
        return {name: value for name, value in values.items() if name not in _NEWER or value}


_NEWER = ("min_confidence", "thinking")
_REPEATED = "row_number() OVER (PARTITION BY parent, {text}, reason IS NULL ORDER BY place) > 1"
_NO_NEGATIVE = "count(*) FILTER (reason = 'negative') OVER (PARTITION BY {group}) = 0"
_CAPPED = "row_number() OVER (PARTITION BY {group}, reason IS NULL ORDER BY draw) > {limit}"
_STRATEGIES = {
    "best_worst": "chosen_value DESC, rejected_value, draw",
    "one": "draw",
}


def rules(config: Config, chosen: Selection) -> list[tuple[str, str]]:
    """Return (reason, SQL condition) in the order in which they apply.

    The columns are those of `queries/nodes.sql`, `pairs.sql` or `trajectories.sql`, plus `reason`,
    null until a rule matches. With a tokenizer there is also `unfit`: a reason in UNFIT, or null,
    for the candidates that no earlier rule matched.
    """
    pairs, teaches = config.format.unit == "pair", config.format.teaches
    texts = "chosen_text, rejected_text" if pairs else "text"
    result: list[tuple[str, str]] = []
    if not chosen.keep_ungraded:
        result.append(("ungraded", "ungraded"))
    if teaches == "positives":
        result.append(("negative", "NOT label"))
        if chosen.positives == "paired":
            result.append(("no_negative_sibling", _NO_NEGATIVE.format(group="parent")))
        if chosen.positives == "mixed":
            result.append(("no_negative", _NO_NEGATIVE.format(group="question_id")))
    if not chosen.keep_identical and pairs:
        result.append(("identical", "chosen_text = rejected_text"))
    if not chosen.keep_identical and teaches == "labels":
        labels = "count(DISTINCT label) FILTER (reason IS NULL)"
        result.append(("identical", f"{labels} OVER (PARTITION BY parent, text) > 1"))
    if not chosen.keep_truncated and teaches != "values":
        result.append(("truncated", "truncated" if pairs else "label AND truncated"))
    if chosen.min_confidence and teaches != "values":
        result.append(("unsure", f"sure < {chosen.min_confidence!r}"))
    if pairs and chosen.margin:
        result.append(("margin", f"round(chosen_value - rejected_value, 9) < {chosen.margin!r}"))
    if chosen.tokenizer:  # before rules that pick among rows, so that they pick one that fits
        result += [(reason, f"unfit = '{reason}'") for reason in UNFIT]
    if chosen.drop_duplicates:
        result.append(("duplicate", _REPEATED.format(text=texts)))
    if pairs and chosen.strategy != "all":
        order = _STRATEGIES[chosen.strategy]
        first = f"row_number() OVER (PARTITION BY parent, reason IS NULL ORDER BY {order}) > 1"
        result.append(("strategy", first))
    if chosen.max_per_parent:
        result.append(("parent_cap", _CAPPED.format(group="parent", limit=chosen.max_per_parent)))
    if chosen.max_per_question:
        limit = chosen.max_per_question
        result.append(("question_cap", _CAPPED.format(group="question_id", limit=limit)))
    return result


REASONS = {
    "ungraded": "its value depends on an answer that the grader could not decide",
    "negative": "not above the threshold",
    "no_negative_sibling": "no sibling is negative (MALT §4.3)",
    "no_negative": "its question has no negative node of the role",
    "identical": "the same text is on both sides",
    "truncated": "the text to learn was truncated at the token limit",
    **UNFIT,
    "unsure": "its label is right with too low a probability",
    "margin": "its two values differ by less than the margin",
    "duplicate": "a sibling row has the same texts",
    "strategy": "another pair of its parent was selected",
    "parent_cap": "its parent already has the maximum number of rows",
    "question_cap": "its question already has the maximum number of rows",
}
"""Reason → meaning, for cards and `explain`."""
