"""What a setting answers: the last turn of each pass, then the majority of the passes.

>>> majority(["7", None, "8", "8"], lambda a, b: a == b)
'8'
>>> majority(["7", "8"], lambda a, b: a == b)    # a tie goes to the answer given first
'7'
"""

from collections.abc import Callable, Iterable, Sequence

Same = Callable[[str, str], bool]


def majority(answers: Sequence[str | None], same: Same) -> str | None:
    """Return the answer that most passes gave, in the words in which it was given first.

    A pass without an answer does not vote; a tie goes to the answer that was given first; None
    where nobody answered. `same` tells whether two answers are one.
    """
    found: list[tuple[str, int]] = []
    for answer in answers:
        if answer is None:
            continue
        for place, (known, votes) in enumerate(found):
            if same(answer, known):
                found[place] = known, votes + 1
                break
        else:
            found.append((answer, 1))
    return max(found, key=lambda one: one[1])[0] if found else None


def ballots(turns: Iterable[tuple[int, int, str, str | None]]) -> list[str | None]:
    """Return the answer of each pass, or of each agent's last round, in order.

    turns: (pass, turn, role, answer) of one question, in any order.

    A pass that ends with the verifier answers what the verifier says, or, where it says no answer
    of its own, what the generator said (Table 5, G + V).
    """
    found: dict[int, str | None] = {}
    for number, _, role, answer in sorted(turns, key=lambda turn: turn[:2]):
        keeps = role == "verifier" and answer is None
        found[number] = found.get(number) if keeps else answer
    return [found[number] for number in sorted(found)]
