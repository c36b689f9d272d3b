"""Record the questions an adapter was trained on (`questions.txt`), to keep them out of evals."""

from pathlib import Path

from malt_data.schemas.team import Team
from malt_data.storage.hub import fetch_file

QUESTIONS = "questions.txt"


def questions_of(adapter: str) -> frozenset[str] | None:
    """Return the ids of the questions that an adapter was trained on; None if not recorded."""
    path = Path(adapter) / QUESTIONS
    if not path.exists() and adapter.count("/") == 1 and not Path(adapter).exists():
        path = fetch_file(adapter, QUESTIONS)
    return frozenset(path.read_text("utf-8").split()) if path.exists() else None


def seen_by(team: Team) -> dict[str, frozenset[str] | None]:
    """Return the ids of the questions that each adapter was trained on; None if not recorded."""
    names = {name for adapters in team.by_set().values() for name in adapters.values()}
    return {name: questions_of(name) for name in sorted(names)}
