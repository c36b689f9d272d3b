"""Questions that reasoning-gym generates: `reasoning-gym:TASK?size=200&seed=1`."""

import difflib
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from malt_data.errors import QuestionsError, one_line
from malt_data.questions.source import SPLITS, Source, pick_split
from malt_data.storage.documents import parse_json

GYM_SIZE = 500
"""Questions of a task where neither `?size=` nor a larger limit says otherwise."""


def open_gym(source: str, split: str | None, limit: int | None) -> Source:
    """Generate `reasoning-gym:TASK?size=200&seed=1&…`; further keys are the task's own settings."""
    name, _, query = source.removeprefix("reasoning-gym:").partition("?")
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise QuestionsError(
            f"{source} needs reasoning-gym, which is not installed: "
            "pip install 'malt-data[reasoning-gym]'"
        ) from None
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        raise QuestionsError(
            f"reasoning-gym has no task {name!r}{f', did you mean {near[0]}?' if near else '.'} "
            f"It has {', '.join(sorted(DATASETS))}."
        )
    chosen = pick_split(split, list(SPLITS), source)
    settings = {"size": max(GYM_SIZE, limit or 0), "seed": 0}
    settings |= {key: _literal(value) for key, value in parse_qsl(query, keep_blank_values=True)}
    try:
        made = reasoning_gym.create_dataset(name, **settings)
        indices = range(len(made))
    except (TypeError, ValueError, AssertionError) as error:
        raise QuestionsError(f"{source}: {one_line(error)}. Change what follows the '?'.") from None
    rows = ((f"{source} row {i + 1}", _gym_row(made[i])) for i in indices)
    return Source(f"reasoning-gym:{name}", chosen, rows, "Apache-2.0")


def _gym_row(row: Mapping[str, Any]) -> dict[str, Any]:
    metadata = dict(row["metadata"])
    return {"question": row["question"], "answer": row["answer"], "metadata": metadata}


def _literal(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text
