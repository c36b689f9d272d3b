"""Grow one tree: n answers, n verifications of each, n refinements of each (*MALT* §4.2).

A node's children start as soon as it completes; there is no barrier between levels. One failed
request fails the tree: it is not stored, and the next run grows it again.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from malt_data.engines import Completion, Engine, Request
from malt_data.errors import EngineDown, EngineError
from malt_data.graders import Grader, extract_answer, grade_columns
from malt_data.prompts.templates import Prompts, render
from malt_data.schemas.forest import Question
from malt_data.schemas.ids import child_id, node_seed
from malt_data.schemas.roles import ROLES
from malt_data.schemas.spec import BuildSpec


@dataclass(frozen=True, slots=True)
class Node:
    """One completion and its position: `path` is its sample index at each level (g, v, r)."""

    node_id: str
    parent_id: str | None
    path: tuple[int, ...]
    text: str
    completion: Completion


async def grow(
    question: Question,
    spec: BuildSpec,
    prompts: Prompts,
    engine: Engine,
    on_completion: Callable[[Completion], None] = lambda _: None,
) -> list[Node]:
    """Grow the tree of one question; return its nodes, parents before children.

    on_completion: called with each completion as it arrives.
    Raises EngineError if a request fails permanently, EngineDown if no request can succeed.
    """
    nodes: list[Node] = []

    async def expand(parent: Node | None, texts: tuple[str, ...]) -> None:
        request = _request(question, spec, prompts, parent, texts)
        async with aclosing(engine.complete(request)) as samples:  # type: ignore[type-var]
            async for sample, completion in samples:
                node = _node(question, parent, sample, completion)
                nodes.append(node)
                on_completion(completion)
                if len(node.path) < len(ROLES):
                    group.create_task(expand(node, (*texts, node.text)))

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(expand(None, ()))
    except* EngineError as group_error:
        raise _most_severe(group_error) from None
    return sorted(nodes, key=lambda node: node.path)


def _request(
    question: Question,
    spec: BuildSpec,
    prompts: Prompts,
    parent: Node | None,
    texts: tuple[str, ...],
) -> Request:
    depth = len(texts)
    parent_id = parent.node_id if parent else question.question_id
    samples = range(spec.branching[depth])
    return Request(
        messages=render(prompts, question.kind, question.question, question.choices, texts),
        seeds=tuple(node_seed(spec.seed, child_id(parent_id, depth, i)) for i in samples),
        temperature=spec.temperature,
        max_tokens=spec.max_tokens or 0,
        adapter=spec.adapters.get(ROLES[depth]),
        priority=-depth,  # finish started trees before starting new ones
    )


def _node(question: Question, parent: Node | None, sample: int, completion: Completion) -> Node:
    path = (*(parent.path if parent else ()), sample)
    parent_id = parent.node_id if parent else question.question_id
    return Node(
        node_id=child_id(parent_id, len(path) - 1, sample),
        parent_id=parent.node_id if parent else None,
        path=path,
        text=_storable(completion.text),
        completion=completion,
    )


def _storable(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, with U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _most_severe(group: BaseExceptionGroup[EngineError]) -> EngineError:
    errors = _flatten(group)
    return next((error for error in errors if isinstance(error, EngineDown)), errors[0])


def _flatten(group: BaseExceptionGroup[EngineError]) -> list[EngineError]:
    errors: list[EngineError] = []
    for error in group.exceptions:
        errors += _flatten(error) if isinstance(error, BaseExceptionGroup) else [error]
    return errors


async def grade(
    question: Question, nodes: Sequence[Node], spec: BuildSpec, model: str, grader: Grader
) -> list[dict[str, Any]]:
    """Extract and grade the answers of a tree; return its rows, without values and labels."""
    rows = []
    for node in nodes:
        answer = extract_answer(node.text, question.kind, question.choices)
        verdict = await grader.verdict(answer, question.gold, question.kind, question.choices)
        graded = grade_columns(answer, verdict, leaf=len(node.path) == len(ROLES))
        rows.append(_row(question, node, spec, model) | graded)
    return rows


def _row(question: Question, node: Node, spec: BuildSpec, model: str) -> dict[str, Any]:
    depth = len(node.path)
    g, v, r = (*node.path, None, None)[:3]
    role = ROLES[depth - 1]
    return {
        "question_id": question.question_id,
        "node_id": node.node_id,
        "parent_id": node.parent_id,
        "role": role,
        "depth": depth,
        "sample": node.path[-1],
        "g": g,
        "v": v,
        "r": r,
        "text": node.text,
        "finish_reason": node.completion.finish_reason,
        "prompt_tokens": node.completion.prompt_tokens,
        "completion_tokens": node.completion.completion_tokens,
        "model": model,
        "adapter": spec.adapters.get(role),
        "seed": node.completion.seed,
        "latency": node.completion.latency,
    }
