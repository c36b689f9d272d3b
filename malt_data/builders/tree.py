"""Grow one tree: each turn is sampled n times under each text of the turn before (*MALT* §4.2).

A node's children start as soon as it completes; there is no barrier between levels. One failed
request fails the tree: it is not stored, and the next run grows it again.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any

from malt_data.builders.adaptive import lacking
from malt_data.engines import Completion, Engine, Prompt, Request
from malt_data.errors import EngineDown, EngineError
from malt_data.forests.labels import tree_labels
from malt_data.graders import Grader
from malt_data.prompts.templates import Script
from malt_data.schemas.forest import Question
from malt_data.schemas.ids import child_id, node_seed
from malt_data.schemas.pipeline import Pipeline
from malt_data.schemas.spec import BuildSpec


@dataclass(frozen=True, slots=True)
class Node:
    """One completion and its position: `path` is its sample index in each turn."""

    node_id: str
    parent_id: str | None
    path: tuple[int, ...]
    text: str
    request: Request
    completion: Completion


async def grow(
    question: Question,
    spec: BuildSpec,
    script: Script,
    engine: Engine,
    on_completion: Callable[[Completion], None] = lambda _: None,
) -> list[Node]:
    """Grow the tree of one question; return its nodes in tree order, parents before children.

    script: the prompts of `spec`. on_completion: called with each completion as it arrives.
    Raises EngineError if a request fails permanently, EngineDown if no request can succeed.
    """
    first: dict[tuple[int, ...], range] = {(): range(spec.chain.turns[0].n)}
    return await extend(question, [], first, spec, script, engine, on_completion)


async def extend(
    question: Question,
    tree: Sequence[Node],
    more: Mapping[tuple[int, ...], range],
    spec: BuildSpec,
    script: Script,
    engine: Engine,
    on_completion: Callable[[Completion], None] = lambda _: None,
) -> list[Node]:
    """Return a tree with further children, each with its base subtree below it; see `grow`.

    more: the sample indices of new children, by the path of their parent; () is the question.
    """
    nodes = {node.path: node for node in tree}
    chain, options = spec.chain, spec.request_options

    async def expand(parent: Node | None, texts: tuple[str, ...], places: range) -> None:
        prompt = script.render(question.kind, question.question, question.choices, texts)
        request = _request(question, spec, chain, prompt, options, parent, len(texts), places)
        async with aclosing(engine.complete(request)) as samples:  # type: ignore[type-var]
            async for index, completion in samples:
                node = _node(request, chain, parent, places[index], completion)
                is_new = node.path not in nodes
                nodes[node.path] = node
                if completion.counted:
                    on_completion(completion)
                if is_new and (depth := len(node.path)) < len(chain.turns):
                    below = range(chain.turns[depth].n)
                    group.create_task(expand(node, (*texts, node.text), below))

    try:
        async with asyncio.TaskGroup() as group:
            for path, places in more.items():
                texts = tuple(nodes[path[:depth]].text for depth in range(1, len(path) + 1))
                group.create_task(expand(nodes.get(path), texts, places))
    except* EngineError as group_error:
        raise _most_severe(group_error) from None
    return [nodes[path] for path in sorted(nodes)]


def _request(
    question: Question,
    spec: BuildSpec,
    chain: Pipeline,
    prompt: Prompt,
    options: Mapping[str, Any],
    parent: Node | None,
    index: int,
    places: range,
) -> Request:
    """Return the request of turn `index` for children of a node. options: those of all requests.

    places: the children's sample indices.
    """
    role = chain.turns[index].role
    parent_id = parent.node_id if parent else question.question_id
    return Request(
        prompt=prompt,
        seeds=tuple(node_seed(spec.seed, child_id(parent_id, role, i)) for i in places),
        adapter=spec.adapters.get(role),
        priority=-index,  # finish started trees before starting new ones
        tree=question.question_id,
        eager=index + 1 < len(chain.turns),  # its children wait for it
        **options,
    )


def _node(
    request: Request, pipeline: Pipeline, parent: Node | None, sample: int, completion: Completion
) -> Node:
    path = (*(parent.path if parent else ()), sample)
    parent_id = parent.node_id if parent else request.tree
    return Node(
        node_id=child_id(parent_id, pipeline.turns[len(path) - 1].role, sample),
        parent_id=parent.node_id if parent else None,
        path=path,
        text=_storable(completion.text),
        request=request,
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


async def grow_and_grade(
    question: Question,
    spec: BuildSpec,
    script: Script,
    engine: Engine,
    grader: Grader,
    on_completion: Callable[[Completion], None] = lambda _: None,
) -> tuple[list[Node], list[dict[str, Any]]]:
    """Grow a tree and, if the build is adaptive, go on where a label is lacking.

    Returns the nodes in tree order and their rows. Raises as `grow` does.
    """
    nodes = await grow(question, spec, script, engine, on_completion)
    grades = await _judge(question, nodes, spec, grader)
    branching = spec.chain.branching
    while spec.adaptive:
        rewards = {
            node.path: grades[node.path]["reward"]
            for node in nodes
            if len(node.path) == len(branching)
        }
        parents = lacking(tree_labels(rewards, branching, spec.labels), branching, spec.adaptive)
        if not parents:
            break
        children = Counter(node.path[:-1] for node in nodes)
        more = {path: range(children[path], children[path] + 1) for path in parents}
        nodes = await extend(question, nodes, more, spec, script, engine, on_completion)
        new = [node for node in nodes if node.path not in grades]
        grades |= await _judge(question, new, spec, grader)
    return nodes, _rows(question, nodes, grades, spec, engine.model)


async def _judge(
    question: Question, nodes: Sequence[Node], spec: BuildSpec, grader: Grader
) -> dict[tuple[int, ...], dict[str, Any]]:
    """Return the graded columns of nodes by path."""
    asked, leaf = asdict(question), len(spec.pipeline.turns)
    grades = await grader.judge((node.text, asked) for node in nodes)
    return {
        node.path: graded.columns(leaf=len(node.path) == leaf)
        for node, graded in zip(nodes, grades, strict=True)
    }


def _rows(
    question: Question,
    nodes: Sequence[Node],
    grades: Mapping[tuple[int, ...], dict[str, Any]],
    spec: BuildSpec,
    model: str,
) -> list[dict[str, Any]]:
    places = {node.node_id: place for place, node in enumerate(nodes)}
    branching = spec.chain.branching
    return [
        _row(question, node, places, spec, model)
        | {"extra": node.path[-1] >= branching[len(node.path) - 1]}
        | grades[node.path]
        for node in nodes
    ]


def _row(
    question: Question, node: Node, places: Mapping[str, int], spec: BuildSpec, model: str
) -> dict[str, Any]:
    depth = len(node.path)
    role = spec.pipeline.turns[depth - 1].role
    return {
        "question_id": question.question_id,
        "node": places[node.node_id],
        "parent": None if node.parent_id is None else places[node.parent_id],
        "node_id": node.node_id,
        "parent_id": node.parent_id,
        "role": role,
        "depth": depth,
        "sample": node.path[-1],
        "text": node.text,
        "thinking": node.completion.thinking and _storable(node.completion.thinking),
        "finish_reason": node.completion.finish_reason,
        "prompt_tokens": node.completion.prompt_tokens,
        "completion_tokens": node.completion.completion_tokens,
        "cached_tokens": node.completion.cached_tokens,
        "model": model,
        "adapter": spec.adapters.get(role),
        "seed": node.completion.seed,
        "latency": node.completion.latency,
    }
