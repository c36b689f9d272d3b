"""The names of graders: `auto`, a kind, or a function of the user's own.

A function is only run if the user has just named it. The name that a forest, a team or a dataset
carries is a label: `is_own` recognises it, and nothing here imports it.

    >>> label_of("/home/ann/rewards.py:grade")
    'rewards.py:grade'
"""

import re
from functools import lru_cache
from pathlib import PurePath

from malt_data.errors import SpecError

AUTO = "auto"
"""The grader that uses each question's own kind."""
OWN = "FILE.py:function"
"""How a function of the user's own is named; or `MODULE:function`."""

_OWN = re.compile(r"(?:[^:]*[^:/]\.py|[^\W\d]\w*(?:\.[^\W\d]\w*)*):[^\W\d]\w*")


def graders() -> list[str]:
    """Return the values of `--grader`: auto, one kind for all questions, or a function."""
    from malt_data.graders.kinds import KINDS

    return [AUTO, *KINDS, OWN]


def is_own(name: str) -> bool:
    """Return whether a grader is a function of somebody's own."""
    return _OWN.fullmatch(name) is not None


def label_of(name: str) -> str:
    """Return the name that is stored: a file's without its folders, which differ by machine."""
    if not is_own(name):
        return name
    where, _, function = name.rpartition(":")
    return f"{PurePath(where).name}:{function}"


def require_grader(name: str) -> None:
    """Raise SpecError for an unknown grader."""
    if name == AUTO or is_own(name):
        return
    from malt_data.graders.kinds import KINDS

    if name not in KINDS:
        raise SpecError(f"Unknown grader {name!r}. Choose one of: {', '.join(graders())}.")


def require_named(stored: str, where: object) -> None:
    """Raise SpecError if `stored`, the grader named in `where`, is a function of somebody's own.

    For commands that would have to run it, and were not told to.
    """
    if is_own(stored):
        raise SpecError(
            f"{where} was graded by {stored}, a function that malt-data does not run unless you "
            f"name it. Run the same command with --grader {stored} if that is the file you mean, "
            "or with the path of yours."
        )


@lru_cache(maxsize=1024)
def graded_as(kind: str, grader: str) -> str:
    """Return the kind as which `grader` reads answers to a question of `kind`.

    Raises SpecError for an unknown grader, or a kind that it cannot grade.
    """
    from malt_data.graders.kinds import KINDS, OWN_KIND, require_kind

    require_grader(grader)
    if grader in KINDS:
        return grader
    if is_own(grader) and OWN_KIND.fullmatch(kind):
        return kind
    return require_kind(kind).name
