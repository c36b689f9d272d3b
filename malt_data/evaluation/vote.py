"""What a setting answers: the last turn of each pass, then the majority of the passes.

>>> majority(["7", None, "8", "8"], lambda a, b: a == b)
'8'
>>> majority(["7", "8"], lambda a, b: a == b)    # a tie goes to the answer given first
'7'
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

Same = Callable[[str, str], bool]
Turns = Iterable[tuple[int, int, str, str | None]]
"""(pass, turn, role, answer) of one question, in any order."""


def majority(answers: Sequence[str | None], same: Same) -> str | None:
    """Return the answer that most passes gave, in the words in which it was given first.

    A pass without an answer does not vote; a tie goes to the answer that was given first; None
    where nobody answered. `same` tells whether two answers are one.
    """
    votes = Counter(place for place in same_as(answers, same) if place is not None)
    return answers[max(votes, key=votes.__getitem__)] if votes else None


def same_as(answers: Sequence[str | None], same: Same) -> list[int | None]:
    """Return for each answer the place of the first one that says the same; None for none.

    >>> same_as(["7", None, "8", "7.0"], lambda a, b: float(a) == float(b))
    [0, None, 2, 0]
    """
    firsts: dict[int, str] = {}
    found: list[int | None] = []
    for place, answer in enumerate(answers):
        if answer is None:
            found.append(None)
            continue
        first = next((first for first, said in firsts.items() if same(answer, said)), place)
        firsts.setdefault(first, answer)
        found.append(first)
    return found


def ballots(turns: Turns) -> list[str | None]:
    """Return the answer of each pass, or of each agent's last round, in order."""
    found = by_turn(turns)
    return found[-1] if found else []


def by_turn(turns: Turns) -> list[list[str | None]]:
    """Return, turn by turn, what each pass would answer if it ended there.

    A pass that ends with the verifier answers what the verifier says, or, where it says no answer
    of its own, what the generator said (Table 5, G + V).
    """
    passes: dict[int, list[str | None]] = {}
    for number, _, role, answer in sorted(turns, key=lambda turn: turn[:2]):
        said = passes.setdefault(number, [])
        keeps = role == "verifier" and answer is None and said
        said.append(said[-1] if keeps else answer)
    longest = max(map(len, passes.values()), default=0)
    return [
        [said[min(turn, len(said) - 1)] for _, said in sorted(passes.items())]
        for turn in range(longest)
    ]
