"""Plan a build: complete its settings, load its questions, and estimate its size."""

import math
from pathlib import Path
from typing import Any

from malt_data.forests.create import require_grown, require_same_settings
from malt_data.forests.forest import open_forest
from malt_data.forests.manifest import read_manifest
from malt_data.graders import label_of, require_named
from malt_data.prompts.resolve import resolve_sampling
from malt_data.prompts.templates import require_prompts
from malt_data.questions.loading import Loaded, load_questions
from malt_data.schemas import layout
from malt_data.schemas.spec import BuildSpec


def complete_settings(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Fill in settings from the forest in `folder`, if there is one.

    Any setting not given defaults to the forest's, so that plain `malt-data build` resumes it. The
    exceptions: `shard` is never carried over, `limit` is not if `questions` is given, and a grader
    of somebody's own must be named again, as a manifest cannot have it run (SpecError).
    """
    if not (folder / layout.MANIFEST).exists():
        return values
    manifest = read_manifest(folder)
    require_grown(manifest.spec, folder)
    defaults = manifest.spec.model_dump(exclude={"limit", "shard"}, exclude_none=True)
    if "grader" not in values:
        require_named(manifest.spec.grader, folder)
    if "n" in values:  # --n sets every role
        defaults.pop("n_by_role", None)
    if "pipeline" in values:  # which says all of this itself
        for name in ("n", "n_by_role", "prompts", "chat_template"):
            defaults.pop(name, None)
    if "questions" not in values and "limit" not in values:
        values = {"limit": manifest.spec.limit, **values}
    if values.get("adaptive") is True and manifest.spec.adaptive:  # with the forest's own rule
        values = {name: value for name, value in values.items() if name != "adaptive"}
    return {**defaults, **manifest.labels.model_dump(exclude={"grader"}), **values}


def plan_build(
    spec: BuildSpec, folder: str | Path, *, prompts_file: str | Path | None = None
) -> dict[str, Any]:
    """Return what `build_forest` would do: trees, requests, completions, maximum tokens."""
    folder = Path(folder)
    spec = resolve_sampling(spec, prompts_file)
    loaded = load(spec)
    questions = [q for q in loaded.questions if in_shard(q.question_id, spec.shard)]
    done: set[str] = set()
    if (folder / layout.MANIFEST).exists():
        forest = open_forest(folder)
        stored = {"split": loaded.split, "grader": label_of(spec.grader)}
        require_same_settings(forest, spec.model_copy(update=stored))
        done = forest.done
    most = _completions_at_most(spec)
    todo = sum(q.question_id not in done for q in questions)
    nodes = spec.chain.nodes_per_tree
    return {
        "forest": str(folder),
        "engine": spec.engine,
        "model": spec.model,
        "questions": len(questions),
        "notes": list(loaded.notes),
        "refused": loaded.counts(),
        "trees_done": len(questions) - todo,
        "trees_to_grow": todo,
        "pipeline": str(spec.chain),
        "requests": todo * sum((1, *spec.chain.widths[:-1])),
        "completions": todo * nodes,
        **({"completions_at_most": todo * most} if spec.adaptive else {}),
        "completion_tokens_at_most": todo * most * (spec.max_tokens or 0),
    }


def _completions_at_most(spec: BuildSpec) -> int:
    """Return the most nodes that a tree can have."""
    if spec.adaptive is None:
        return spec.chain.nodes_per_tree
    turns = tuple(turn.n + spec.adaptive.most for turn in spec.chain.turns)
    return sum(math.prod(turns[:depth]) for depth in range(1, len(turns) + 1))


def load(spec: BuildSpec) -> Loaded:
    """Load the questions selected by `spec`; raise SpecError if one cannot be asked."""
    loaded = load_questions(
        spec.questions,
        split=spec.split,
        limit=spec.limit,
        seed=spec.seed,
        grader=spec.grader,
        kind=spec.kind,
        fields=spec.fields,
    )
    require_prompts(spec.prompts, spec.pipeline, {q.kind for q in loaded.questions})
    return loaded


def in_shard(question_id: str, shard: str | None) -> bool:
    """Return whether a question belongs to shard `I/K`; None: every question does."""
    if shard is None:
        return True
    index, count = map(int, shard.split("/"))
    return int(question_id, 16) % count == index - 1
