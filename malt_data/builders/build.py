"""Build a forest: grow a tree for every question, and keep every finished tree.

Trees start while the engine has capacity, and a writer thread adds finished ones to the forest
within a second. An interrupted build resumes when the same command is run again.

    report = build_forest(BuildSpec(n=3, limit=20), "forest")
    report.grown, report.failed
"""

import asyncio
import datetime as dt
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from malt_data.builders.budget import Limit
from malt_data.builders.plan import in_shard, load
from malt_data.builders.prefixes import prompt_use
from malt_data.builders.tree import grow_and_grade
from malt_data.builders.writer import Writer
from malt_data.engines import Completion, Engine, Request
from malt_data.engines.loop import run_sync
from malt_data.engines.opening import open_engine
from malt_data.engines.usage import Usage
from malt_data.errors import EngineDown, EngineError, GraderError, MaltError
from malt_data.forests.create import create_forest, remove_empty, stored_questions
from malt_data.forests.forest import Forest
from malt_data.forests.manifest import update_manifest
from malt_data.forests.parts import NodeParts
from malt_data.forests.totals import Totals, totals
from malt_data.graders import Grader
from malt_data.prompts.resolve import resolve_sampling
from malt_data.prompts.templates import Script
from malt_data.questions.loading import Loaded
from malt_data.schemas import layout
from malt_data.schemas.forest import Question
from malt_data.schemas.manifest import BuildRecord
from malt_data.schemas.spec import Budget, BuildSpec

_FAILURES_IN_A_ROW = 20  # then the build stops
_GLANCE_SECONDS = 0.01


@dataclass
class BuildReport(Usage):
    """The outcome of a build; asked = before + grown + failed + elsewhere unless interrupted
    or stopped.

    stopped: the budget that ended it, `max_tokens_total`, `max_pairs` or `max_hours`; None: no one.
    asked: trees requested. before: grown by earlier runs. elsewhere: left to another process.
    pairs: usable ones in the trees grown and written. earlier: of the trees that were there; None
      if there was nothing to do.
    prompt_computed, prompt_least: prompt tokens that the engine computed for the trees grown, and
      the fewest that they can take (builders/prefixes.py); None if the engine does not say.
    """

    asked: int = 0
    before: int = 0
    grown: int = 0
    elsewhere: int = 0
    interrupted: bool = False
    stopped: str | None = None
    pairs: int = 0
    earlier: Totals | None = None
    failed: dict[str, str] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    prompt_computed: int | None = None
    prompt_least: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def summary(self, folder: Path) -> str:
        """Return a one-line summary."""
        trees = f"{self.before + self.grown} of {self.asked} trees in {folder}"
        elsewhere = f", {self.elsewhere} in another process" if self.elsewhere else ""
        if not (self.completions or self.failed or self.interrupted or self.stopped):
            return f"{trees}{elsewhere}: nothing to do."
        prefixes = ""
        if self.prompt_computed is not None and self.prompt_least:
            times = self.prompt_computed / self.prompt_least
            prefixes = f" Prompt tokens computed: {times:.2f} times the least possible."
        return (
            f"{trees} ({self.grown} new{elsewhere}): {self.completions} completions, "
            f"{self.completion_tokens} tokens in {self.seconds:.1f} s.{prefixes}"
        )

    def add_tree(self, sampled: Iterable[tuple[Request, Completion]]) -> None:
        """Count a tree that has been grown."""
        use = prompt_use(sampled)
        if use is None:
            self.prompt_computed = self.prompt_least = None
        elif not self.grown or self.prompt_computed is not None:
            self.prompt_computed = (self.prompt_computed or 0) + use[0]
            self.prompt_least = (self.prompt_least or 0) + use[1]
        self.grown += 1


OnProgress = Callable[[BuildReport], None]
"""Called often, on the event loop, with the report so far."""


def build_forest(
    spec: BuildSpec,
    folder: str | Path,
    *,
    engine: Engine | None = None,
    budget: Budget | None = None,
    prompts_file: str | Path | None = None,
    on_progress: OnProgress = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> BuildReport:
    """Grow the trees of `spec` that are missing in `folder`; return a report.

    engine: used instead of the one in `spec`; the caller closes it. budget: where to stop, with the
    trees in progress finished; the report says `stopped`. prompts_file: templates to use
    instead of the built-in ones. note: called with messages for the user.
    Ctrl-C stops the build cleanly and sets `interrupted`; every finished tree is kept.
    Raises a MaltError if the settings, questions, engine or folder cannot be used.
    """
    spec = resolve_sampling(spec, prompts_file, engine)
    loaded = load(spec)
    for text in loaded.notes:
        note(text)
    with Grader(spec.grader, timeout_s=spec.grader_timeout, note=note) as grader:
        spec = spec.model_copy(update={"split": loaded.split, "grader": grader.name})
        return run_sync(
            _build(
                spec, Path(folder), loaded, engine, grader, budget or Budget(), on_progress, note
            )
        )


async def _build(
    spec: BuildSpec,
    folder: Path,
    loaded: Loaded,
    engine: Engine | None,
    grader: Grader,
    budget: Budget,
    on_progress: OnProgress,
    note: Callable[[str], None],
) -> BuildReport:
    # In order of id, so that each part has neighbouring ids, and queries for one skip the others.
    questions = sorted(
        (q for q in loaded.questions if in_shard(q.question_id, spec.shard)),
        key=lambda q: q.question_id,
    )
    report = BuildReport(asked=len(questions), refused=loaded.counts())
    todo = questions
    parts = NodeParts(folder / layout.NODES)
    # Before loading a model: check the settings, and whether there is anything to do.
    if (folder / layout.MANIFEST).exists():
        with parts.reading():
            create_forest(folder, spec, loaded.questions, loaded.report())
            done = parts.trees()
        todo = [q for q in questions if q.question_id not in done]
        report.before = len(questions) - len(todo)
        if not todo:
            parts.compact()  # in case an earlier run was killed before this
    if not todo:
        return report
    started: dt.datetime | None = None
    try:
        async with _opened(engine, spec, note) as opened:
            started = dt.datetime.now(dt.UTC).replace(microsecond=0)
            spec = spec.model_copy(update={"model": opened.model})
            await _grow_into(
                folder, spec, loaded, todo, opened, grader, budget, report, on_progress
            )
    finally:
        report.stop()
        if started is not None and report.grown:
            _record(folder, started, report)
    return report


async def _grow_into(
    folder: Path,
    spec: BuildSpec,
    loaded: Loaded,
    todo: Sequence[Question],
    engine: Engine,
    grader: Grader,
    budget: Budget,
    report: BuildReport,
    on_progress: OnProgress,
) -> None:
    """Create or extend the forest in `folder`, and grow the missing trees."""
    fresh = not (folder / layout.MANIFEST).exists()
    try:
        if fresh:  # first, as it refuses a folder that contains other files
            create_forest(folder, spec, loaded.questions, loaded.report())
        parts = NodeParts(folder / layout.NODES)
        with parts.reading():  # blocks relabelling while trees are added
            forest = create_forest(folder, spec, loaded.questions, loaded.report())
            report.earlier = totals(forest)
            limit = Limit(budget, spec, report.earlier)
            asked = stored_questions(forest, todo)
            await grow_all(forest, spec, asked, engine, grader, report, on_progress, limit)
        parts.compact()
    except (EngineError, GraderError):
        if fresh:  # do not pin the folder to settings that never worked
            remove_empty(folder)
        raise


@asynccontextmanager
async def _opened(
    engine: Engine | None, spec: BuildSpec, note: Callable[[str], None]
) -> AsyncIterator[Engine]:
    """Yield the caller's engine, or open the one in `spec` and close it afterwards."""
    if engine is not None:
        yield engine
        return
    engine = await open_engine(spec, tuple(spec.adapters.values()), note)
    try:
        yield engine
    finally:
        await engine.close()


def _record(folder: Path, started: dt.datetime, report: BuildReport) -> None:
    """Append a record of this build to the manifest."""
    record = BuildRecord(
        started=started,
        trees=report.grown,
        failed=len(report.failed),
        prompt_computed=report.prompt_computed,
        prompt_least=report.prompt_least,
        **report.usage(),
    )
    update_manifest(folder, lambda manifest: {"runs": [*manifest.runs, record]})


async def grow_all(
    forest: Forest,
    spec: BuildSpec,
    questions: Sequence[Question],
    engine: Engine,
    grader: Grader,
    report: BuildReport,
    on_progress: OnProgress = lambda _: None,
    limit: Limit | None = None,
) -> None:
    """Grow a tree for each question, except those that another process has grown or claimed.

    limit: a budget, at which no further tree is started.
    """
    started = time.monotonic()
    limit = limit or Limit(Budget(), spec, Totals())
    with Writer(forest) as writer, _cancel_on_sigterm():
        build = _Build(forest, spec, engine, grader, writer, report, on_progress, limit)
        try:
            on_progress(report)  # from here on time counts
            await build.run(questions)
        except asyncio.CancelledError:
            report.interrupted = True
        finally:
            report.seconds = time.monotonic() - started
    report.pairs = writer.pairs
    on_progress(report)


@dataclass
class _Build:
    """A running build: schedules trees, grades them and hands them to the writer."""

    forest: Forest
    spec: BuildSpec
    engine: Engine
    grader: Grader
    writer: Writer
    report: BuildReport
    on_progress: OnProgress
    limit: Limit
    failures_in_a_row: int = 0

    def __post_init__(self) -> None:
        spec = self.spec
        self.script = Script(spec.prompts, spec.chain, plain=spec.chat_template.plain)

    async def run(self, questions: Sequence[Question]) -> None:
        trees = asyncio.Semaphore(2 * self.engine.gate.limit)  # trees being graded use no slot
        growing: set[asyncio.Task[None]] = set()
        try:
            async with asyncio.TaskGroup() as group:
                for question in questions:
                    await trees.acquire()
                    await self.engine.gate.has_room()
                    if not await self._can_afford(growing):
                        break
                    if not self._claim(question.question_id):
                        self.report.elsewhere += 1
                        trees.release()
                        continue
                    task = group.create_task(self.grow_tree(question))
                    growing.add(task)
                    task.add_done_callback(growing.discard)
                    task.add_done_callback(lambda _: trees.release())
                    await asyncio.sleep(0)  # let it take its slot before checking for room again
        except* MaltError as failed:  # the engine is down, or the disk is full
            raise failed.exceptions[0] from None

    async def _can_afford(self, growing: set[asyncio.Task[None]]) -> bool:
        """Return whether the budget allows another tree, at the latest when all others ended."""
        while self.limit.is_blind(len(growing)):
            await asyncio.sleep(_GLANCE_SECONDS)
        while (budget := self.limit.reached(len(growing))) is not None:
            if not growing:
                self.report.stopped = budget
                return False
            await asyncio.wait(growing, return_when=asyncio.FIRST_COMPLETED)
        return True

    def _claim(self, question_id: str) -> bool:
        if not self.writer.claims.take(question_id):
            return False
        if question_id in self.forest.parts.trees():  # another process has just finished it
            self.writer.claims.release(question_id)
            return False
        return True

    async def grow_tree(self, question: Question) -> None:
        try:
            nodes, rows = await grow_and_grade(
                question, self.spec, self.script, self.engine, self.grader, self._on_completion
            )
        except EngineDown:
            raise
        except EngineError as error:
            self._on_failure(question.question_id, error)
            return
        self.writer.add(question.question_id, rows)
        self.failures_in_a_row = 0
        self.limit.add_tree(nodes, [row["reward"] for row in rows])
        self.report.add_tree((node.request, node.completion) for node in nodes)
        self._tell()

    def _on_completion(self, completion: Completion) -> None:
        self.report.add(completion)
        self.limit.add(completion)
        self._tell()

    def _tell(self) -> None:
        self.report.pairs = self.writer.pairs
        self.on_progress(self.report)

    def _on_failure(self, question_id: str, error: EngineError) -> None:
        self.writer.claims.release(question_id)
        self.report.failed[question_id] = str(error)
        self.failures_in_a_row += 1
        self._tell()
        if self.failures_in_a_row >= _FAILURES_IN_A_ROW:
            raise EngineDown(
                f"{self.failures_in_a_row} trees failed in a row, most recently: {error} "
                "Finished trees are kept; fix the engine and run the same command again."
            )


@contextmanager
def _cancel_on_sigterm() -> Iterator[None]:
    """Handle SIGTERM, which cluster schedulers send, as cleanly as Ctrl-C."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and task is not None:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        if in_main_thread:
            loop.remove_signal_handler(signal.SIGTERM)
