"""A build: every question becomes a tree, every finished tree is kept.

Trees start while the engine has room, a writer thread adds finished ones to the forest within
a second, and a run that was interrupted in any way is completed by starting it again.

    report = build_forest(BuildSpec(n=3, limit=20), "forest")
    report.grown, report.failed
"""

import asyncio
import datetime as dt
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from malt_data.builders.plan import in_shard, load
from malt_data.builders.tree import grade, grow
from malt_data.builders.writer import Writer
from malt_data.engines import Completion, Engine
from malt_data.engines.loop import run
from malt_data.engines.opening import open_engine
from malt_data.engines.usage import Usage
from malt_data.errors import EngineDown, EngineError, MaltError
from malt_data.forests.create import as_stored, create_forest, remove_empty
from malt_data.forests.forest import Forest
from malt_data.forests.manifest import update_manifest
from malt_data.forests.parts import NodeParts
from malt_data.graders import Grader
from malt_data.prompts.resolve import resolve_sampling
from malt_data.questions.loading import Loaded
from malt_data.schemas import layout
from malt_data.schemas.forest import Question
from malt_data.schemas.manifest import BuildRecord
from malt_data.schemas.spec import BuildSpec

_FAILURES_IN_A_ROW = 20


@dataclass
class BuildReport(Usage):
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
        """Trees that were asked for and nobody has grown or is growing."""
        return self.asked - self.before - self.grown - self.elsewhere


OnProgress = Callable[[BuildReport], None]
"""Called often, on the event loop, with the report so far."""


def build_forest(
    spec: BuildSpec,
    folder: str | Path,
    *,
    engine: Engine | None = None,
    prompts_file: str | Path | None = None,
    on_progress: OnProgress = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> BuildReport:
    """Grow the trees of `spec` that `folder` lacks; return what was done.

    engine: what samples, in place of the one that `spec` names; the caller closes it. prompts_file:
    templates in place of ours. note: told what a person may want to know.
    Ctrl-C ends it cleanly with `interrupted` set; every finished tree is kept.
    Raises a MaltError for settings, questions, an engine or a folder that cannot work.
    """
    spec = resolve_sampling(spec, prompts_file, engine)
    loaded = load(spec)
    for text in loaded.notes:
        note(text)
    spec = spec.model_copy(update={"split": loaded.split})
    return run(_build(spec, Path(folder), loaded, engine, on_progress, note))


async def _build(
    spec: BuildSpec,
    folder: Path,
    loaded: Loaded,
    own_engine: Engine | None,
    on_progress: OnProgress,
    note: Callable[[str], None],
) -> BuildReport:
    questions = [q for q in loaded.questions if in_shard(q.question_id, spec.shard)]
    report = BuildReport(asked=len(questions), refused=loaded.counts())
    todo = questions
    parts = NodeParts(folder / layout.NODES)
    if (
        folder / layout.MANIFEST
    ).exists():  # refuse a mix, or see that all is done, before loading a model
        with parts.reading():
            create_forest(folder, spec, loaded.questions, loaded.report())
            done = parts.trees()
        todo = [q for q in questions if q.question_id not in done]
        report.before = len(questions) - len(todo)
        if not todo:
            parts.compact()  # what a killed run left to do
    if not todo:
        return report
    started = dt.datetime.now(dt.UTC).replace(microsecond=0)
    try:
        async with _opened(own_engine, spec, note) as engine:
            started = dt.datetime.now(dt.UTC).replace(microsecond=0)
            spec = spec.model_copy(update={"model": engine.model})
            await _grow_into(folder, spec, loaded, todo, engine, report, on_progress)
    finally:
        report.stop()
        if report.grown:
            _record(folder, started, report)
    return report


async def _grow_into(
    folder: Path,
    spec: BuildSpec,
    loaded: Loaded,
    todo: Sequence[Question],
    engine: Engine,
    report: BuildReport,
    on_progress: OnProgress,
) -> None:
    """Start or continue the forest in `folder`, and grow the trees that are missing."""
    fresh = not (folder / layout.MANIFEST).exists()
    try:
        if fresh:  # before anything else is made in a folder that may hold other files
            create_forest(folder, spec, loaded.questions, loaded.report())
        parts = NodeParts(folder / layout.NODES)
        with parts.reading():  # nothing is relabelled while it grows
            forest = create_forest(folder, spec, loaded.questions, loaded.report())
            await grow_all(forest, spec, as_stored(forest, todo), engine, report, on_progress)
        parts.compact()
    except EngineError:
        if fresh:  # a wrong model or address must not settle what this folder is
            remove_empty(folder)
        raise


@asynccontextmanager
async def _opened(
    own: Engine | None, spec: BuildSpec, note: Callable[[str], None]
) -> AsyncIterator[Engine]:
    """Give the caller's engine, or open the one of `spec` and close it at the end."""
    if own is not None:
        yield own
        return
    engine = await open_engine(spec, tuple(spec.adapters.values()), note)
    try:
        yield engine
    finally:
        await engine.close()


def _record(folder: Path, started: dt.datetime, report: BuildReport) -> None:
    record = BuildRecord(
        started=started, trees=report.grown, failed=len(report.failed), **report.usage()
    )
    update_manifest(folder, lambda manifest: {"runs": [*manifest.runs, record]})


async def grow_all(
    forest: Forest,
    spec: BuildSpec,
    questions: Sequence[Question],
    engine: Engine,
    report: BuildReport,
    on_progress: OnProgress = lambda _: None,
) -> None:
    """Grow a tree for each question that no other process has or is growing."""
    started = time.monotonic()
    with Grader() as grader, Writer(forest) as writer, _stoppable():
        build = _Build(forest, spec, engine, grader, writer, report, on_progress)
        try:
            await build.all(questions)
        except asyncio.CancelledError:
            report.interrupted = True
        finally:
            report.seconds = time.monotonic() - started


@dataclass
class _Build:
    forest: Forest
    spec: BuildSpec
    engine: Engine
    grader: Grader
    writer: Writer
    report: BuildReport
    on_progress: OnProgress
    failures_in_a_row: int = 0

    async def all(self, questions: Sequence[Question]) -> None:
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

    async def one(self, question: Question) -> None:
        try:
            nodes = await grow(
                question, self.spec, self.spec.prompts, self.engine, self._on_completion
            )
            rows = await grade(question, nodes, self.spec, self.engine.model, self.grader)
        except EngineDown:
            raise
        except EngineError as error:
            self._failed(question.question_id, error)
            return
        self.writer.add(question.question_id, rows)
        self.failures_in_a_row = 0
        self.report.grown += 1
        self.on_progress(self.report)

    def _on_completion(self, completion: Completion) -> None:
        self.report.add(completion)
        self.on_progress(self.report)

    def _failed(self, question_id: str, error: EngineError) -> None:
        self.writer.claims.release(question_id)
        self.report.failed[question_id] = str(error)
        self.failures_in_a_row += 1
        self.on_progress(self.report)
        if self.failures_in_a_row >= _FAILURES_IN_A_ROW:
            raise EngineDown(
                f"{self.failures_in_a_row} trees in a row failed, the last one with: {error} "
                "Every finished tree is kept; fix the engine and run the same command again."
            )


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
