"""Read and write `team.toml` (schemas/team.py), and which questions its adapters were trained on.

read_team("team/team.toml").adapters["verifier"]     # 'team/verifier_dpo'
"""

from pathlib import Path

import tomli_w

from malt_data.errors import StorageError
from malt_data.schemas.team import Team, table_of
from malt_data.storage.documents import read_settings
from malt_data.storage.files import write_text
from malt_data.storage.hub import fetch_file

QUESTIONS = "questions.txt"
"""A file next to an adapter: the ids of the questions that it was trained on, to keep them out of
evaluations."""


def read_team(path: str | Path) -> Team:
    """Read a team.toml and resolve adapters next to it; raise SpecError if it is invalid."""
    path = Path(path)
    team = parse_team(path)

    def resolve(adapters: dict[str, str]) -> dict[str, str]:
        return {
            role: str(path.parent / name) if (path.parent / name).exists() else name
            for role, name in adapters.items()
        }

    found = {name: resolve(adapters) for name, adapters in team.by_set().items()}
    own = {name: found.pop(name) for name in team.own}
    return team.model_copy(
        update={"own": own, **{table_of(name): adapters for name, adapters in found.items()}}
    )


def write_team(path: Path, team: Team) -> None:
    """Write team.toml, without empty tables."""
    values = team.model_dump(exclude_none=True)
    write_text(path, tomli_w.dumps({key: value for key, value in values.items() if value != {}}))


def questions_of(adapter: str) -> frozenset[str] | None:
    """Return the ids of the questions that an adapter was trained on; None if not recorded."""
    path = Path(adapter) / QUESTIONS
    if not path.exists() and adapter.count("/") == 1 and not Path(adapter).exists():
        path = fetch_file(adapter, QUESTIONS)
    try:
        return frozenset(path.read_text("utf-8").split()) if path.exists() else None
    except UnicodeDecodeError:
        raise StorageError(f"{path} is not text, so what {adapter} has seen is unknown.") from None


def seen_by(team: Team) -> dict[str, frozenset[str] | None]:
    """Return the ids of the questions that each adapter was trained on; None if not recorded."""
    names = {name for adapters in team.by_set().values() for name in adapters.values()}
    return {name: questions_of(name) for name in sorted(names)}


def parse_team(path: Path) -> Team:
    """Read a team.toml as it is written, adapters relative to it; raise SpecError if invalid."""
    return read_settings(path, "team file", Team)
