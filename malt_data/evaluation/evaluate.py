"""Evaluate settings on questions over several seeds; resumable.

    report = evaluate(plan_evaluation(spec, settings, team, "results", seeds=4))

One question with one seed is played for all settings together, because they share completions. Its
rows are written to `completions/` atomically, and a resumed run only plays what is missing. At the
end, `predictions.parquet` is recomputed from the completions.
"""

import asyncio
import datetime as dt
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from malt_data.engines import Engine
from malt_data.engines.loop import run_sync
from malt_data.engines.usage import Usage
from malt_data.errors import EngineDown, EngineError, EvalError, GraderError, MaltError
from malt_data.evaluation.ask import open_for
from malt_data.evaluation.parts import CompletionParts, discard, read_manifest
from malt_data.evaluation.plan import Plan, Unplayed
from malt_data.evaluation.play import Memo, Turn, play
from malt_data.evaluation.predictions import write_predictions
from malt_data.evaluation.settings import Setting
from malt_data.graders import Graded, Grader
from malt_data.schemas import layout
from malt_data.schemas.forest import Question
from malt_data.storage.files import lock, write_text

_FLUSH_SECONDS = 5.0
OnProgress = Callable[[int, int], None]


@dataclass
class _Played(Usage):
    """Progress of a run: units played, and the error of each question that failed."""

    started: str | None = None
    units: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def evaluate(
    plan: Plan,
    *,
    on_progress: OnProgress = lambda done, total: None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Play what is missing and write predictions.parquet; return {"units", "played", "failed"}.

    Raises EvalError if another process is writing to the folder, EngineDown if no request can
    succeed.
    """
    out = plan.out
    with lock(out, wait=False) as acquired:
        if not acquired:
            raise EvalError(f"{out} is being written by another evaluation. Wait until it ends.")
        is_new = not (out / layout.RESULTS).exists()
        todo = plan.todo()
        played = _Played()
        try:
            if todo:
                name, timeout_s = plan.spec.grader, plan.spec.grader_timeout
                with Grader(name, timeout_s=timeout_s, note=note) as grader:
                    run_sync(_run(plan, todo, grader, played, on_progress, note))
            else:
                plan.begin(None)
        except (EngineError, GraderError):
            # A failed first run, e.g. with a wrong model, must not fix the folder's settings.
            if is_new and not CompletionParts(out).paths():
                discard(out)
            raise
        finally:
            if (out / layout.QUESTIONS).exists():
                if played.started is not None:
                    _record(out, played)
                CompletionParts(out).compact()
                write_predictions(out)
    return {"units": plan.units, "played": played.units, "failed": played.failed}


def _record(out: Path, played: _Played) -> None:
    """Complete the record that `Plan.begin` added to the manifest."""
    manifest = read_manifest(out)
    manifest["runs"][-1] |= {
        "started": played.started,
        "units": played.units,
        "failed": len(played.failed),
        **played.usage(),
    }
    write_text(out / layout.RESULTS, json.dumps(manifest, indent=2) + "\n")


async def _run(
    plan: Plan,
    todo: list[Unplayed],
    grader: Grader,
    played: _Played,
    on_progress: OnProgress,
    note: Callable[[str], None],
) -> None:
    engine = await open_for(plan.spec, plan.settings, plan.team, note)
    try:
        plan.begin(engine.model)
        played.started = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        await _play_all(engine, grader, plan, todo, played, on_progress)
    finally:
        await engine.close()
        played.stop()


async def _play_all(
    engine: Engine,
    grader: Grader,
    plan: Plan,
    todo: list[Unplayed],
    played: _Played,
    on_progress: OnProgress,
) -> None:
    spec, team = plan.spec, plan.team
    parts = CompletionParts(plan.out)
    rows: list[dict[str, Any]] = []
    total = sum(len(settings) for _, _, settings in todo)
    started = flushed = time.monotonic()
    slots = asyncio.Semaphore(2 * engine.gate.limit)  # questions being graded use no slot

    def flush() -> None:
        nonlocal flushed
        if rows:
            parts.add(rows)
            rows.clear()
        flushed = time.monotonic()

    async def play_question(seed: int, question: Question, settings: list[Setting]) -> None:
        memo = Memo(engine, spec, played.add, question.question_id)
        try:
            turns = await asyncio.gather(
                *(play(question, setting, seed, memo, team) for setting in settings)
            )
        except EngineDown:
            raise
        except EngineError as error:
            played.failed[question.question_id] = str(error)
            return
        finally:
            await memo.close()
            slots.release()
        played_turns = [
            (setting, turn)
            for setting, setting_turns in zip(settings, turns, strict=True)
            for turn in setting_turns
        ]
        asked = asdict(question)
        grades = await grader.judge((turn.completion.text, asked) for _, turn in played_turns)
        new_rows = [
            _row(setting, seed, question, turn, graded)
            for (setting, turn), graded in zip(played_turns, grades, strict=True)
        ]
        rows.extend(new_rows)  # all at once, so that a flush cannot split a unit
        played.units += len(settings)
        on_progress(played.units, total)
        if time.monotonic() - flushed > _FLUSH_SECONDS:
            flush()

    try:
        async with asyncio.TaskGroup() as group:
            for seed, question, settings in todo:
                await slots.acquire()
                await engine.gate.has_room()
                group.create_task(play_question(seed, question, settings))
                await asyncio.sleep(0)  # let it take its slot before checking for room again
    except* MaltError as error:
        raise error.exceptions[0] from None
    finally:
        played.seconds = time.monotonic() - started
        flush()


def _row(
    setting: Setting, seed: int, question: Question, turn: Turn, grade: Graded
) -> dict[str, Any]:
    completion = turn.completion
    graded = grade.columns(leaf=False)
    return {
        "setting": setting.name,
        "seed": seed,
        "question_id": question.question_id,
        "pass": turn.pass_index,
        "turn": turn.turn,
        "role": turn.role,
        "adapter": turn.adapter,
        "messages": json.dumps(turn.prompt, ensure_ascii=False),
        "text": completion.text,
        "answer": turn.answer,
        "correct": graded["correct"],
        "verdict": graded["verdict"],
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "sampling_seed": completion.seed,
        "latency": completion.latency,
        "thinking": completion.thinking,
        "cached_tokens": completion.cached_tokens,
    }
