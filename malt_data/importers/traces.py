"""Read completions from the `traces.jsonl` of `verifiers` (version 1 of its traces).

A row is an episode: one task, and the traces of the agents that worked on it, as they finished. A
trace with one sampled message is a completion by the agent's name; the task's `prompt` and `answer`
are the question. Episodes of one task are samples of one tree.

The file does not say which trace answered which. So it is told by what the agents read: the parent
of a trace is the one of the turn before whose reply its prompt shows. Traces with equal replies are
exchangeable, and the one with the fewest children is the parent.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from malt_data.errors import ImportsError
from malt_data.importers.completions import Imported, imported
from malt_data.questions.files import Row
from malt_data.schemas.pipeline import SHIPPED, shipped

_PLUMBING = {
    *("idx", "image", "workdir", "agent_user", "skills", "network_allow", "network_block"),
    *("artifacts", "artifact_max_bytes", "timeout", "resources", "system_prompt"),
}
"""Fields of a task that say how it is run, not what is asked."""
FAILED = "the episode or one of its traces failed"
CONVERSATION = "a conversation of several turns, not one completion"


def is_episode(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("traces"), list) and isinstance(row.get("task"), dict)


def read_episodes(
    rows: Iterator[Row],
    file: int,
    roles: Sequence[str] | None,
    names: Mapping[str, str],
    left_out: Counter[str],
) -> Iterator[Imported]:
    """Yield the completions of a file of episodes; count in `left_out` those that are unusable.

    roles: who speaks in which turn; None: as in the first episode that did not fail. names: the
    roles of agents with other names.
    Raises ImportsError for a row that is no episode, an agent who is not in the first one, or a
    trace whose parent cannot be told.
    """
    derived = roles is None
    for where, row in rows:
        try:
            if _failed(row):
                left_out[FAILED] += len(row["traces"])
                continue
            speakers = [_name(trace, names) for trace in row["traces"]]
            if roles is None and speakers:
                roles = chain_of(speakers)
            if derived and (strangers := [name for name in speakers if name not in (roles or ())]):
                raise _stranger(where, strangers[0], roles or ())
            yield from _episode(where, row, file, roles or (), names, left_out)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            raise ImportsError(
                f"{where} is not an episode of verifiers (trace version 1). Fix or remove it."
            ) from None


def chain_of(speakers: Sequence[str]) -> Sequence[str]:
    """Return the turns of an episode: those of the shipped pipeline with its agents, if any.

    >>> chain_of(["generator", "generator", "refiner"]), chain_of(["agent", "agent"])
    (('generator', 'refiner'), ('agent',))
    """
    chains = [tuple(turn.role for turn in shipped(name).turns) for name in SHIPPED]
    agents = tuple(dict.fromkeys(speakers))
    if tuple(speakers) in chains:
        return speakers
    return next((chain for chain in chains if tuple(dict.fromkeys(chain)) == agents), agents)


def _name(trace: Mapping[str, Any], names: Mapping[str, str]) -> str:
    name = trace["agent"]["name"]
    if not isinstance(name, str):
        raise TypeError("a name that is no text")
    return names.get(name, name)


@dataclass(slots=True)
class _Trace:
    """A completion, what its agent read, and how many traces have been put under it."""

    said: Imported
    read: str
    children: int = 0


def _episode(
    where: str,
    row: Mapping[str, Any],
    file: int,
    roles: Sequence[str],
    names: Mapping[str, str],
    left_out: Counter[str],
) -> Iterator[Imported]:
    if any(_sampled(trace) is None for trace in row["traces"]):
        left_out[CONVERSATION] += len(row["traces"])
        return
    question = _question(row["task"]["data"])
    turns: dict[int, list[_Trace]] = {}
    for index, trace in enumerate(row["traces"]):
        found = _trace(f"{where} trace {index + 1}", trace, file, names)
        turn = _turn(found, roles, turns)
        parent = _parent(found, turns[turn - 1]) if turn else None
        placed = replace(
            found.said,
            parent=parent.said.key if parent else None,
            role=found.said.role if len(roles) > 1 else None,
            row={} if turn else question,
        )
        turns.setdefault(turn, []).append(replace(found, said=placed))
        if parent:
            parent.children += 1
        yield placed


def _failed(row: Mapping[str, Any]) -> bool:
    return not row["ok"] or not all(trace["ok"] for trace in row["traces"])


def _sampled(trace: Mapping[str, Any]) -> int | None:
    """Return the node that the model sampled; None if it is not one text at the end."""
    found = [index for index, node in enumerate(trace["nodes"]) if node["sampled"]]
    if len(found) != 1 or trace["nodes"][found[0]]["message"].get("tool_calls"):
        return None
    return found[0]


def _question(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task as a row of a question: its own fields, and its prompt as text."""
    row = {name: value for name, value in data.items() if name not in _PLUMBING}
    if isinstance(prompt := row.get("prompt"), list):
        row["prompt"] = "\n\n".join(_text(message) for message in prompt)
    return row


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _trace(where: str, trace: Mapping[str, Any], file: int, names: Mapping[str, str]) -> _Trace:
    sampled = _sampled(trace)
    assert sampled is not None
    nodes = trace["nodes"]
    call: dict[str, Any] = next((c for c in trace["calls"] if c.get("node") == sampled), {})
    usage, time = call.get("usage") or {}, call.get("time") or {}
    cached = usage.get("cached_input_tokens")
    prompt = usage.get("prompt_tokens")
    said = {
        "text": nodes[sampled]["message"].get("content") or "",
        "thinking": nodes[sampled]["message"].get("reasoning_content"),
        "finish_reason": call.get("finish_reason"),
        "model": call.get("model"),
        "seed": (call.get("sampling") or {}).get("seed"),
        "prompt_tokens": None if prompt is None else prompt + (cached or 0),
        "completion_tokens": usage.get("completion_tokens"),
        "cached_tokens": cached,
        "latency": time["end"] - time["start"] if time.get("end") else None,
    }
    read, place = [], nodes[sampled].get("parent")
    while place is not None:
        read.append(_text(nodes[place]["message"]))
        above = nodes[place].get("parent")
        if above is not None and not above < place:
            raise ValueError("a message before its parent")
        place = above
    role = _name(trace, names)
    return _Trace(imported(where, said, file=file, key=where, role=role), "\n".join(read))


def _turn(found: _Trace, roles: Sequence[str], turns: Mapping[int, Sequence[_Trace]]) -> int:
    """Return the turn of a trace, from 0: the last one of its agent whose turn before is there.

    Later turns only count if its prompt shows a reply of the turn before, where there is a choice.
    """
    if len(roles) == 1:
        return 0
    spoken = [i for i, role in enumerate(roles) if role == found.said.role]
    possible = [i for i in spoken if i == 0 or i - 1 in turns]
    if not possible:
        raise _stranger(found.said.where, str(found.said.role), roles)
    shown = [i for i in possible if i == 0 or any(_shows(found, above) for above in turns[i - 1])]
    return (shown or possible)[-1]


def _shows(found: _Trace, trace: _Trace) -> bool:
    """Return whether the prompt of `found` shows the reply of `trace`."""
    return trace.said.text.strip() in found.read


def _stranger(where: str, name: str, roles: Sequence[str]) -> ImportsError:
    return ImportsError(
        f"{where} is by the agent {name!r}, who does not speak there in {' → '.join(roles)}. Name "
        "a pipeline of your own (--pipeline FILE.toml), or give the agents the names of its roles: "
        "[roles] in --config FILE.toml."
    )


def _parent(found: _Trace, above: Sequence[_Trace]) -> _Trace:
    """Return the trace that `found` continues; raise ImportsError if several may be it."""
    shown = [trace for trace in above if _shows(found, trace)]
    candidates = list(above) if len(above) == 1 else shown
    longest = max((len(trace.said.text) for trace in candidates), default=0)
    best = [trace for trace in candidates if len(trace.said.text) == longest]
    if not best or any(trace.said.text not in best[0].said.text for trace in candidates):
        raise ImportsError(
            f"{found.said.where}: its prompt shows the reply of "
            f"{'no' if not best else 'more than one'} trace of the turn before, so its parent is "
            "unknown. Write the trees as rows with id and parent (docs/import.md)."
        )
    return min(best, key=lambda trace: trace.children)
