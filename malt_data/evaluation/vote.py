"""Vote: a setting answers with the majority over the final answers of its passes.

>>> majority(["7", None, "8", "8"], lambda a, b: a == b)
'8'
>>> majority(["7", "8"], lambda a, b: a == b)    # a tie goes to the answer given first
'7'
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

Said = TypeVar("Said")
"""An answer, or what else is known of a turn with one."""
Same = Callable[[str, str], bool]
Turns = Iterable[tuple[int, int, str, str | None]]
"""(pass, turn, role, answer) of one question, in any order."""


def majority(answers: Sequence[str | None], same: Same) -> str | None:
    """Return the most frequent answer, in its first wording; None if there is no answer.

    Passes without an answer do not vote; a tie goes to the answer given first. `same` decides
    whether two answers are equal.
    """
    votes = Counter(index for index in same_as(answers, same) if index is not None)
    return answers[max(votes, key=votes.__getitem__)] if votes else None


def same_as(answers: Sequence[str | None], same: Same) -> list[int | None]:
    """Return for each answer the index of the first equal one; None for a missing answer.

    >>> same_as(["7", None, "8", "7.0"], lambda a, b: float(a) == float(b))
    [0, None, 2, 0]
    """
    firsts: dict[int, str] = {}
    indices: list[int | None] = []
    for index, answer in enumerate(answers):
        if answer is None:
            indices.append(None)
            continue
        first = next((first for first, text in firsts.items() if same(answer, text)), index)
        firsts.setdefault(first, answer)
        indices.append(first)
    return indices


def ballots(turns: Turns, judges: Collection[str]) -> list[str | None]:
    """Return the final answer of each pass, or of each agent of a debate, in order."""
    answers = by_turn(turns, judges)
    return answers[-1] if answers else []


def by_turn(
    turns: Iterable[tuple[int, int, str, Said | None]], judges: Collection[str]
) -> list[list[Said | None]]:
    """Return, for each turn, what each pass would answer if it ended there.

    A turn of a role in `judges` without an answer of its own keeps the one before (Table 5, G + V).
    """
    passes: dict[int, list[Said | None]] = {}
    for pass_index, _, role, answer in sorted(turns, key=lambda turn: turn[:2]):
        answers = passes.setdefault(pass_index, [])
        keeps = role in judges and answer is None and answers
        answers.append(answers[-1] if keeps else answer)
    longest = max(map(len, passes.values()), default=0)
    return [
        [answers[min(turn, len(answers) - 1)] for _, answers in sorted(passes.items())]
        for turn in range(longest)
    ]
