"""Put completions in their places: who is under whom, in which turn, as which sample.

    forest = link(completions)
    pipeline = fit_pipeline(forest, spec)
    place(forest, roots_of_a_question, pipeline)    # [((0,), …), ((0, 0), …), …], in tree order

Nothing is guessed: a parent that is not there, a cycle or a role out of turn is refused by name.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from malt_data.display import escape
from malt_data.errors import ImportsError, SpecError
from malt_data.importers.completions import Imported
from malt_data.schemas.pipeline import MOST_SAMPLES, MOST_TURNS, SHIPPED, Pipeline, shipped
from malt_data.schemas.spec import ImportSpec

Key = tuple[int, str]
"""A file's index, and a key in it."""
Path = tuple[int, ...]
"""The sample index of a node in each turn."""


@dataclass(frozen=True)
class Linked:
    """All completions: those of the first turn, those under each other, and all of them by turn."""

    roots: Sequence[Imported]
    children: Mapping[Key, Sequence[Imported]]
    turns: Sequence[Sequence[Imported]]


def link(completions: Sequence[Imported]) -> Linked:
    """Put each completion under its parent.

    Raises ImportsError for a key that is not unique, a parent that is not in the same file, or a
    cycle.
    """
    named: dict[Key, Imported] = {}
    children: dict[Key, list[Imported]] = defaultdict(list)
    for each in completions:
        if (other := named.setdefault(_key(each), each)) is not each:
            raise ImportsError(
                f"{each.where} has the id {each.key!r}, which {other.where} has too. "
                "Ids must be unique in a file."
            )
    for each in completions:
        if each.parent is None:
            continue
        if (parent := named.get((each.file, each.parent))) is None:
            raise ImportsError(
                f"{each.where}: its parent {each.parent!r} is not in the file. Add it, or remove "
                "what is under it."
            )
        children[_key(parent)].append(each)
    turns = [[each for each in completions if each.parent is None]]
    while below := [child for each in turns[-1] for child in children.get(_key(each), ())]:
        if len(turns) == MOST_TURNS:
            raise ImportsError(f"{below[0].where} is deeper than {MOST_TURNS} turns.")
        turns.append(below)
    if sum(map(len, turns)) < len(completions):
        raise ImportsError(_cycle(named, turns))
    return Linked(turns[0], children, turns)


def _key(completion: Imported) -> Key:
    return completion.file, completion.key


def _cycle(named: Mapping[Key, Imported], turns: Sequence[Sequence[Imported]]) -> str:
    reached = {_key(each) for turn in turns for each in turn}
    each = next(each for key, each in named.items() if key not in reached)
    seen: dict[str, Imported] = {}
    while each.key not in seen:
        seen[each.key] = each
        each = named[each.file, str(each.parent)]
    ids = [*seen][[*seen].index(each.key) :]
    shown = " → ".join(map(repr, (*ids[:3], *(["…"] if len(ids) > 3 else []), ids[0])))
    return f"{each.where}: its parents go in a circle: {shown}."


def fit_pipeline(linked: Linked, spec: ImportSpec) -> Pipeline:
    """Return the pipeline of the completions, with their largest number of siblings as branching.

    It is the one of `spec` if given, else the shipped one whose turns have their roles. Raises
    ImportsError for a role that speaks in a turn of another, SpecError if no pipeline is known.
    """
    if "pipeline" in spec.model_fields_set:
        pipeline = spec.pipeline
    else:
        pipeline = _shipped([next((e.role for e in turn if e.role), None) for turn in linked.turns])
    for index, turn in enumerate(linked.turns):
        if index == len(pipeline.turns):
            raise ImportsError(
                f"{turn[0].where} speaks in turn {index + 1}, but the pipeline {pipeline.name} has "
                f"{index} ({_chain(pipeline)}). Name another: --pipeline NAME|FILE.toml"
            )
        role = pipeline.turns[index].role
        if wrong := next((each for each in turn if each.role not in (role, None)), None):
            raise ImportsError(
                f"{wrong.where}: the role {wrong.role!r} speaks in turn {index + 1}, which is "
                f"{role}'s in the pipeline {pipeline.name} ({_chain(pipeline)}). Name another "
                "(--pipeline FILE.toml), or map the role: [roles] in --config FILE.toml."
            )
    return pipeline


def _shipped(roles: Sequence[str | None]) -> Pipeline:
    for name in SHIPPED:
        turns = shipped(name).turns
        if len(turns) == len(roles) and all(
            role in (turn.role, None) for role, turn in zip(roles, turns, strict=True)
        ):
            return shipped(name)
    spoken = " → ".join(escape(role or "?") for role in roles)
    raise SpecError(
        f"The completions are by {spoken}; no shipped pipeline has these turns. Name a pipeline: "
        "--pipeline NAME|FILE.toml, or map the roles: [roles] in --config FILE.toml."
    )


def _chain(pipeline: Pipeline) -> str:
    return " → ".join(turn.role for turn in pipeline.turns)


def place(linked: Linked, roots: Sequence[Imported], turns: int) -> list[tuple[Path, Imported]]:
    """Return the nodes of a tree with their paths, in tree order, without incomplete ones.

    A node is incomplete if nothing in the last of `turns` turns is under it. Siblings are numbered
    in the order of their samples where all have one, else of the file.
    """
    return [*_placed(linked, roots, turns, ())]


def _placed(
    linked: Linked, siblings: Sequence[Imported], turns: int, above: Path
) -> Iterator[tuple[Path, Imported]]:
    if all(each.sample is not None for each in siblings):
        siblings = sorted(siblings, key=lambda each: each.sample or 0)
    kept = [each for each in siblings if _complete(linked, each, turns - len(above))]
    if len(kept) > MOST_SAMPLES:
        raise ImportsError(
            f"{kept[MOST_SAMPLES].where} is one of {len(kept)} completions of one prompt; a "
            f"forest has at most {MOST_SAMPLES}. Import fewer."
        )
    for index, each in enumerate(kept):
        path = (*above, index)
        yield path, each
        yield from _placed(linked, linked.children.get(_key(each), ()), turns, path)


def _complete(linked: Linked, each: Imported, turns: int) -> bool:
    """Return whether a node has a leaf under it that counts, `turns` - 1 turns below."""
    below = linked.children.get(_key(each), ())
    return turns == 1 or any(_complete(linked, c, turns - 1) for c in below if not c.extra)


def size(linked: Linked, roots: Sequence[Imported]) -> int:
    """Return the number of completions under `roots`, and of these."""
    count, left = 0, [*roots]
    while left:
        count += 1
        left += linked.children.get(_key(left.pop()), ())
    return count


def widest(trees: Sequence[Sequence[tuple[Path, Imported]]], turns: int) -> list[int]:
    """Return the largest number of siblings in each turn."""
    most = [1] * turns
    for tree in trees:
        for path, _ in tree:
            most[len(path) - 1] = max(most[len(path) - 1], path[-1] + 1)
    return most
