r"""Read completions from rows: JSONL, JSON or Parquet, in either of two forms.

A tree has one row per completion. Rows of the first turn carry the question:

    {"id": "a", "role": "generator", "text": "…", "question": "What is 2 + 3?", "answer": "5"}
    {"id": "b", "parent": "a", "role": "verifier", "text": "…"}

Rollouts of one role have the question in every row, with one completion or a list of them:

    {"question": "What is 2 + 3?", "answer": "5", "completion": "… Final Answer: 5"}

A row with `node_id` is one of our own nodes, from `malt-data sql "FROM nodes JOIN questions …"`:
its `answer` is the completion's, the question's is `gold`, and nothing else is read from the
columns that labelling computes. A `[fields]` table gives other names for any of these.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from malt_data.errors import ImportsError
from malt_data.importers.completions import DETAILS, Imported, imported, plain_text
from malt_data.questions.fields import FIELDS
from malt_data.questions.files import Row
from malt_data.schemas.forest import NODES

_PLACES = ("id", "parent", "role")
_ROLLOUTS = ("completion", "completions")
NAMES = (*FIELDS, *_PLACES, *_ROLLOUTS, *DETAILS)
"""The keys of `[fields]`."""
_COMPUTED = {*NODES.names} - {"question_id"}


def read_rows(rows: Iterator[Row], file: int, fields: Mapping[str, str]) -> Iterator[Imported]:
    """Yield the completions of a file; raise ImportsError for a row that is none.

    fields: other names for those in NAMES.
    """
    named = {name: fields.get(name, name) for name in NAMES}
    for where, row in rows:
        if "node_id" in row:
            yield _own(where, row, file)
        elif found := [name for name in _ROLLOUTS if row.get(named[name]) is not None]:
            yield from _rollouts(where, row, file, named, found[0])
        elif row.get(named["text"]) is not None:
            yield _node(where, row, file, named)
        else:
            raise ImportsError(
                f"{where} has no completion: it needs a field `text`, `completion` or "
                "`completions`. If it has another name, map it in --config FILE.toml: "
                '[fields] completion = "…"'
            )


def _own(where: str, row: Mapping[str, Any], file: int) -> Imported:
    return imported(
        where,
        {name: row.get(name) for name in DETAILS},
        file=file,
        key=_key(where, "node_id", row["node_id"]),
        parent=_parent(where, "parent_id", row.get("parent_id")),
        role=_role(where, row.get("role")),
        row={name: value for name, value in row.items() if name not in _COMPUTED},
        raw=False,
    )


def _node(where: str, row: Mapping[str, Any], file: int, named: Mapping[str, str]) -> Imported:
    used = {named[name] for name in (*_PLACES, *DETAILS)}
    key = row.get(named["id"])
    return imported(
        where,
        {name: row.get(named[name]) for name in DETAILS},
        file=file,
        key=where if key is None else _key(where, named["id"], key),
        parent=_parent(where, named["parent"], row.get(named["parent"])),
        role=_role(where, row.get(named["role"])),
        row={name: value for name, value in row.items() if name not in used},
    )


def _rollouts(
    where: str, row: Mapping[str, Any], file: int, named: Mapping[str, str], found: str
) -> Iterator[Imported]:
    """Yield the completions of a row. In a list, only the model and the adapter are of them all."""
    several = found == "completions"
    said = row[named[found]]
    if several and not isinstance(said, list):
        raise ImportsError(f"{where}: {named[found]} is not a list.")
    of_all = ("model", "adapter") if several else tuple(n for n in DETAILS if n != "text")
    used = {named[name] for name in (found, "role", *of_all)}
    question = {name: value for name, value in row.items() if name not in used}
    for index, each in enumerate(said if several else [said]):
        place = f"{where} completion {index + 1}" if several else where
        details = {name: row.get(named[name]) for name in of_all}
        yield imported(
            place,
            {**details, **_message(place, each)},
            file=file,
            key=place,
            role=_role(where, row.get(named["role"])),
            row=question,
        )


def _message(where: str, said: object) -> dict[str, object]:
    """Return what a completion says: a text, or one message of the assistant (as TRL has them)."""
    if isinstance(said, list) and len(said) == 1:
        said = said[0]
    if not isinstance(said, dict):
        return {"text": said}
    if said.get("role", "assistant") != "assistant" or said.get("tool_calls"):
        raise ImportsError(f"{where} is not one text of an assistant.")
    thinking = said.get("reasoning_content")
    return {"text": said.get("content"), **({} if thinking is None else {"thinking": thinking})}


def _key(where: str, name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ImportsError(f"{where}: {name} is neither text nor a number.")
    return plain_text(where, name, str(value))


def _parent(where: str, name: str, value: object) -> str | None:
    return None if value is None else _key(where, name, value)


def _role(where: str, value: object) -> str | None:
    return None if value is None else plain_text(where, "role", value)
