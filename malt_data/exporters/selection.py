"""Which nodes and pairs become rows, and the reason of every one that does not.

A rule is a name and a SQL condition over the candidates; the first rule that holds for a
candidate is its reason. Rules see only trees (no rule looks across questions), so the outcome
does not depend on how trees are spread over parts, and a seed gives the same rows everywhere.

    >>> from malt_data.schemas.exports import config_named
    >>> [name for name, _ in rules(config_named("refiner_dpo"), Selection(strategy="one"))]
    ['ungraded', 'identical', 'truncated', 'strategy']
"""

from typing import Literal

from malt_data.exporters.fit import UNFIT
from malt_data.schemas.exports import Config
from malt_data.schemas.model import Field, Model

Strategy = Literal["all", "best_worst", "one"]
Positives = Literal["all", "paired", "mixed"]


class Selection(Model):
    """What to leave out of an export; the defaults drop only what cannot teach anything."""

    strategy: Strategy = "all"
    """dpo: every pair; a parent's highest against its lowest value; one at random a parent."""
    margin: float = Field(0.0, ge=0, le=1)
    """dpo: least difference of the two values."""
    positives: Positives = "all"
    """Every positive (Algorithm 1); those with a negative sibling, which are the positives of D_G,
    D_V and D_R (§4.3); those whose question has a negative of the role. An undecided node is not
    a negative."""
    max_per_parent: int | None = Field(None, ge=1, le=10**9)
    max_per_question: int | None = Field(None, ge=1, le=10**9)
    keep_truncated: bool = False
    """Keep positive texts that were cut off at the token limit."""
    keep_ungraded: bool = False
    """Keep nodes whose value rests on an answer that the grader could not decide. It counts as
    wrong in values (Algorithm 1), which may be untrue. Without this, such nodes are left out
    even where that answer could not have changed their label."""
    keep_identical: bool = False
    """Keep a text that is a positive and a negative sibling at once."""
    drop_duplicates: bool = False
    """Keep each row once where siblings wrote the same text."""
    tokenizer: str | None = Field(None, min_length=1)
    """Leave out what this model or tokenizer cannot take, by its chat template and context."""
    max_length: int | None = Field(None, ge=1, le=10**9)
    """Leave out rows of more tokens; of the forest's own model where `tokenizer` is not given."""
    validation: float = Field(0.1, ge=0, lt=1)
    """Share of the questions, by a hash of their ids; the same in every role and format."""
    seed: int = Field(0, ge=-(2**63), lt=2**63)

    @property
    def border(self) -> str:
        """Questions whose hash begins below these 8 hex digits are for validation."""
        return f"{int(self.validation * 16**8):08x}"


_REPEATED = "row_number() OVER (PARTITION BY parent, {text}, reason IS NULL ORDER BY place) > 1"
_NO_NEGATIVE = "count(*) FILTER (reason = 'negative') OVER (PARTITION BY {group}) = 0"
_CAPPED = "row_number() OVER (PARTITION BY {group}, reason IS NULL ORDER BY draw) > {most}"
_STRATEGIES = {
    "best_worst": "chosen_value DESC, rejected_value, draw",
    "one": "draw",
}


def rules(config: Config, chosen: Selection) -> list[tuple[str, str]]:
    """Return (reason, SQL condition) in the order in which they apply.

    The columns are those of `queries/nodes.sql`, `pairs.sql` or `trajectories.sql`, and
    `reason`, null as long as no rule held; with a tokenizer also `unfit`, a reason in UNFIT or null
    for the candidates that no rule before held for.
    """
    pairs, teaches = config.format.unit == "pair", config.format.teaches
    same = "chosen_text, rejected_text" if pairs else "text"
    found: list[tuple[str, str]] = []
    if not chosen.keep_ungraded:
        found.append(("ungraded", "ungraded"))
    if teaches == "positives":
        found.append(("negative", "NOT label"))
        if chosen.positives == "paired":
            found.append(("no_negative_sibling", _NO_NEGATIVE.format(group="parent")))
        if chosen.positives == "mixed":
            found.append(("no_negative", _NO_NEGATIVE.format(group="question_id")))
    if not chosen.keep_identical and pairs:
        found.append(("identical", "chosen_text = rejected_text"))
    if not chosen.keep_identical and teaches == "labels":
        labels = "count(DISTINCT label) FILTER (reason IS NULL)"
        found.append(("identical", f"{labels} OVER (PARTITION BY parent, text) > 1"))
    if not chosen.keep_truncated and teaches != "values":
        found.append(("truncated", "truncated" if pairs else "label AND truncated"))
    if pairs and chosen.margin:
        found.append(("margin", f"round(chosen_value - rejected_value, 9) < {chosen.margin!r}"))
    if chosen.tokenizer:  # before any rule that picks among rows: it shall pick one that fits
        found += [(reason, f"unfit = '{reason}'") for reason in UNFIT]
    if chosen.drop_duplicates:
        found.append(("duplicate", _REPEATED.format(text=same)))
    if pairs and chosen.strategy != "all":
        order = _STRATEGIES[chosen.strategy]
        first = f"row_number() OVER (PARTITION BY parent, reason IS NULL ORDER BY {order}) > 1"
        found.append(("strategy", first))
    if chosen.max_per_parent:
        found.append(("parent_cap", _CAPPED.format(group="parent", most=chosen.max_per_parent)))
    if chosen.max_per_question:
        most = chosen.max_per_question
        found.append(("question_cap", _CAPPED.format(group="question_id", most=most)))
    return found


REASONS = {
    "ungraded": "its value rests on an answer that the grader could not decide",
    "negative": "not above the threshold",
    "no_negative_sibling": "no sibling is negative (MALT §4.3)",
    "no_negative": "its question has no negative node of the role",
    "identical": "the same text stands on both sides",
    "truncated": "the text to learn was cut off at the token limit",
    **UNFIT,
    "margin": "the two values are closer than the margin",
    "duplicate": "a sibling row has the same texts",
    "strategy": "another pair of its parent was taken",
    "parent_cap": "its parent has enough rows",
    "question_cap": "its question has enough rows",
}
"""What each reason means, for cards and `explain`."""
