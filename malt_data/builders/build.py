"""A build: every question becomes a tree, every finished tree is kept.

Trees start while the engine has room, a writer thread adds finished ones to the forest within
a second, and a run that was interrupted in any way is completed by starting it again.

    report = build_forest(make_spec({"n": 3, "limit": 20}), Path("forest"))
    report.grown, report.failed
"""

import asyncio
import datetime as dt
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malt_data.builders.tree import grade, grow
from malt_data.builders.writer import Writer
from malt_data.engines import Completion, Engine
from malt_data.engines.embedded import EMBEDDED
from malt_data.engines.opening import DEFAULT_MAX_TOKENS, open_engine
from malt_data.engines.usage import Usage
from malt_data.errors import EngineDown, EngineError, MaltError
from malt_data.forests.forest import (
    Forest,
    as_stored,
    create_forest,
    open_forest,
    refuse_mix,
    remove_empty,
    update_manifest,
)
from malt_data.forests.parts import Parts
from malt_data.graders import Grader
from malt_data.prompts.templates import load_prompts, merge_prompts
from malt_data.schemas.manifest import MANIFEST, Run, Spec, read_manifest

if TYPE_CHECKING:
    from malt_data.questions.loading import Loaded, Question

_FAILURES_IN_A_ROW = 20


@dataclass
class Report(Usage):
    """What a build did. Trees: asked = before + grown + failed + elsewhere, unless interrupted."""

    asked: int = 0
    before: int = 0
    grown: int = 0
    elsewhere: int = 0
    interrupted: bool = False
    failed: dict[str, str] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def summary(self, folder: Path) -> str:
        """Return what was done in one line."""
        trees = f"{self.before + self.grown} of {self.asked} trees in {folder}"
        beside = f", {self.elsewhere} with another process" if self.elsewhere else ""
        if not self.completions:
            return f"{trees}{beside}: nothing to do."
        return (
            f"{trees} ({self.grown} new{beside}): {self.completions} completions, "
            f"{self.completion_tokens} tokens in {self.seconds:.1f} s."
        )

    @property
    def missing(self) -> int:
        """Trees that were asked for and are in nobody's hands."""
        return self.asked - self.before - self.grown - self.elsewhere


Watch = Callable[[Report], None]
"""Called often, on the event loop, with the report so far."""


def resolve(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return settings completed by those of the forest in `folder`, if there is one.

    What is not asked for on resuming is what the forest has, so that `malt-data build` alone
    continues it. Only `limit`, which says how many trees, starts at the source's whole.
    """
    if not (folder / MANIFEST).exists():
        return values
    manifest = read_manifest(folder)
    kept = manifest.spec.model_dump(exclude={"limit", "shard"}, exclude_none=True)
    if "n" in values:  # --n sets all three roles
        for role in ("n_generator", "n_verifier", "n_refiner"):
            kept.pop(role, None)
    if "questions" not in values and "limit" not in values:
        values = {"limit": manifest.spec.limit, **values}
    return {**kept, **manifest.labels.model_dump(exclude={"grader"}), **values}


def complete(spec: Spec, prompts_file: Path | None) -> Spec:
    """Return `spec` with model, token limit and prompts spelt out, as the manifest keeps it."""
    model = spec.model or (None if spec.engine == "openai" else EMBEDDED)
    ours = "prompts_embedded.toml" if model == EMBEDDED else "prompts.toml"
    prompts = load_prompts(prompts_file, ours)
    if spec.prompts:  # checked even where a file stands in their place
        given = merge_prompts(prompts, spec.prompts, "prompts")
        prompts = given if prompts_file is None else prompts
    limit = spec.max_tokens or DEFAULT_MAX_TOKENS.get(model or "", DEFAULT_MAX_TOKENS[""])
    return spec.model_copy(update={"model": model, "max_tokens": limit, "prompts": prompts})


def build_forest(
    spec: Spec,
    folder: Path,
    *,
    prompts_file: Path | None = None,
    watch: Watch = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Report:
    """Grow the trees of `spec` that `folder` lacks; return what was done.

    Ctrl-C ends it cleanly with `interrupted` set; every finished tree is kept.
    Raises a MaltError for settings, questions, an engine or a folder that cannot work.
    """
    spec = complete(spec, prompts_file)
    loaded = _load(spec)
    for text in loaded.notes:
        note(text)
    spec = spec.model_copy(update={"split": loaded.split})
    return asyncio.run(_build(spec, folder, loaded, watch, note))


def plan(spec: Spec, folder: Path, *, prompts_file: Path | None = None) -> dict[str, Any]:
    """Return what `build_forest` would do: trees, requests, completions, the most tokens."""
    spec = complete(spec, prompts_file)
    loaded = _load(spec)
    questions = [q for q in loaded.questions if _in_shard(q.question_id, spec.shard)]
    done: set[str] = set()
    if (folder / MANIFEST).exists():
        forest = open_forest(folder)
        refuse_mix(forest, spec.model_copy(update={"split": loaded.split}))
        done = forest.done
    todo = sum(q.question_id not in done for q in questions)
    g, v, _ = spec.branching
    return {
        "forest": str(folder),
        "engine": spec.engine,
        "model": spec.model,
        "questions": len(questions),
        "notes": list(loaded.notes),
        "refused": loaded.counts(),
        "trees_done": len(questions) - todo,
        "trees_to_grow": todo,
        "requests": todo * (1 + g + g * v),
        "completions": todo * spec.nodes_a_tree,
        "completion_tokens_at_most": todo * spec.nodes_a_tree * (spec.max_tokens or 0),
    }


def _load(spec: Spec) -> "Loaded":
    from malt_data.questions.loading import load_questions

    return load_questions(
        spec.questions,
        split=spec.split,
        limit=spec.limit,
        seed=spec.seed,
        grader=spec.grader,
        kind=spec.kind,
        fields=spec.fields,
    )


async def _build(
    spec: Spec, folder: Path, loaded: "Loaded", watch: Watch, note: Callable[[str], None]
) -> Report:
    questions = [q for q in loaded.questions if _in_shard(q.question_id, spec.shard)]
    report = Report(asked=len(questions), refused=loaded.counts())
    todo = questions
    parts = Parts(folder / "nodes")
    fresh = not (folder / MANIFEST).exists()
    if not fresh:  # refuse a mix, or see that all is done, before loading a model
        with parts.reading():
            create_forest(folder, spec, loaded.questions, loaded.report())
            done = parts.trees()
        todo = [q for q in questions if q.question_id not in done]
        report.before = len(questions) - len(todo)
        if not todo:
            parts.compact()  # what a killed run left to do
    if not todo:
        return report
    engine = await open_engine(spec, note)
    spec = spec.model_copy(update={"model": engine.model})
    started = dt.datetime.now(dt.UTC).replace(microsecond=0)
    try:
        if fresh:  # before anything else is made in a folder that may hold other files
            create_forest(folder, spec, loaded.questions, loaded.report())
        with parts.reading():  # nothing is relabelled while it grows
            forest = create_forest(folder, spec, loaded.questions, loaded.report())
            await run(forest, spec, as_stored(forest, todo), engine, report, watch)
        parts.compact()
    except EngineError:
        if fresh:  # a wrong model or address must not settle what this folder is
            remove_empty(folder)
        raise
    finally:
        await engine.close()
        report.stop()
        if report.grown:
            _record(folder, started, report)
    return report


def _record(folder: Path, started: dt.datetime, report: Report) -> None:
    run = Run(started=started, trees=report.grown, failed=len(report.failed), **report.usage())
    update_manifest(folder, lambda manifest: {"runs": [*manifest.runs, run]})


async def run(
    forest: Forest,
    spec: Spec,
    questions: "list[Question]",
    engine: Engine,
    report: Report,
    watch: Watch = lambda _: None,
) -> None:
    """Grow a tree for each question that no other process has or is growing."""
    started = time.monotonic()
    with Grader() as grader, Writer(forest) as writer, _stoppable():
        build = _Run(forest, spec, engine, grader, writer, report, watch)
        try:
            await build.all(questions)
        except asyncio.CancelledError:
            report.interrupted = True
        finally:
            report.seconds = time.monotonic() - started


@dataclass
class _Run:
    forest: Forest
    spec: Spec
    engine: Engine
    grader: Grader
    writer: Writer
    report: Report
    watch: Watch
    failures_in_a_row: int = 0

    async def all(self, questions: "list[Question]") -> None:
        trees = asyncio.Semaphore(2 * self.engine.gate.width)  # trees being graded hold no slot
        try:
            async with asyncio.TaskGroup() as group:
                for question in questions:
                    await trees.acquire()
                    await self.engine.gate.has_room()
                    if not self._claim(question.question_id):
                        self.report.elsewhere += 1
                        trees.release()
                        continue
                    task = group.create_task(self.one(question))
                    task.add_done_callback(lambda _: trees.release())
                    await asyncio.sleep(0)  # let it take its slot before asking for room again
        except* MaltError as failed:  # the engine is down, or the disk is full
            raise failed.exceptions[0] from None

    def _claim(self, question_id: str) -> bool:
        if not self.writer.claims.take(question_id):
            return False
        if question_id in self.forest.parts.trees():  # another process finished it meanwhile
            self.writer.claims.release(question_id)
            return False
        return True

    async def one(self, question: "Question") -> None:
        try:
            nodes = await grow(question, self.spec, self.spec.prompts, self.engine, self._landed)
            rows = await grade(question, nodes, self.spec, self.engine.model, self.grader)
        except EngineDown:
            raise
        except EngineError as error:
            self._failed(question.question_id, error)
            return
        self.writer.add(question.question_id, rows)
        self.failures_in_a_row = 0
        self.report.grown += 1
        self.watch(self.report)

    def _landed(self, completion: Completion) -> None:
        self.report.add(completion)
        self.watch(self.report)

    def _failed(self, question_id: str, error: EngineError) -> None:
        self.writer.claims.release(question_id)
        self.report.failed[question_id] = str(error)
        self.failures_in_a_row += 1
        self.watch(self.report)
        if self.failures_in_a_row >= _FAILURES_IN_A_ROW:
            raise EngineDown(
                f"{self.failures_in_a_row} trees in a row failed, the last one with: {error} "
                "Every finished tree is kept; mend the engine and run the same command again."
            )


def _in_shard(question_id: str, shard: str | None) -> bool:
    if shard is None:
        return True
    index, count = map(int, shard.split("/"))
    return int(question_id, 16) % count == index - 1


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM (a cluster's notice) end a build as cleanly as Ctrl-C does."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    main = threading.current_thread() is threading.main_thread()
    if main and task is not None:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        if main:
            loop.remove_signal_handler(signal.SIGTERM)
