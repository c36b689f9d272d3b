"""An evaluation: every setting on every question under every seed, kept, resumed, counted.

    report = evaluate(plan_evaluation(spec, settings, team, "results", seeds=4))

The unit is one question under one seed, over all settings: they share what they have in common.
A finished unit is in `completions/` whole or not at all; started again, only missing ones are
played. `predictions.parquet` is made anew from the completions at the end.
"""

import asyncio
import datetime as dt
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from malt_data.engines import Engine
from malt_data.engines.usage import Usage
from malt_data.errors import EngineDown, EngineError, EvalError, MaltError
from malt_data.evaluation.ask import open_for
from malt_data.evaluation.parts import CompletionParts, forget, read_manifest
from malt_data.evaluation.plan import Plan, Unplayed
from malt_data.evaluation.play import Memo, Turn, play
from malt_data.evaluation.predictions import write_predictions
from malt_data.evaluation.settings import Setting
from malt_data.graders import Grader, grade_columns
from malt_data.schemas import layout
from malt_data.schemas.forest import Question
from malt_data.storage.files import lock, write_text

_FLUSH_SECONDS = 5.0
OnProgress = Callable[[int, int], None]


@dataclass
class _Played(Usage):
    """What a run did so far: units played, and what each question that was not failed with."""

    started: str | None = None
    units: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def evaluate(
    planned: Plan,
    *,
    on_progress: OnProgress = lambda done, total: None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Play what is missing and write predictions.parquet; return {"units", "played", "failed"}.

    Raises EvalError where another evaluation writes there; EngineDown where no request
    can succeed.
    """
    out = planned.out
    with lock(out, wait=False) as acquired:
        if not acquired:
            raise EvalError(f"{out} is being written by another evaluation. Wait for it.")
        fresh = not (out / layout.RESULTS).exists()
        todo = planned.todo()
        played = _Played()
        try:
            if todo:
                asyncio.run(_run(planned, todo, played, on_progress, note))
            else:
                planned.begin(None)
        except EngineError:
            if (
                fresh and not CompletionParts(out).paths()
            ):  # a wrong model must not settle what this folder is
                forget(out)
            raise
        finally:
            if (out / layout.QUESTIONS).exists():
                if played.started is not None:
                    _record(out, played)
                CompletionParts(out).compact()
                write_predictions(out)
    return {"units": planned.units, "played": played.units, "failed": played.failed}


def _record(out: Path, played: _Played) -> None:
    """Complete the record that `Plan.begin` started; a run that was killed keeps it as it was."""
    manifest = read_manifest(out)
    manifest["runs"][-1] |= {
        "started": played.started,
        "units": played.units,
        "failed": len(played.failed),
        **played.usage(),
    }
    write_text(out / layout.RESULTS, json.dumps(manifest, indent=2) + "\n")


async def _run(
    planned: Plan,
    todo: list[Unplayed],
    played: _Played,
    on_progress: OnProgress,
    note: Callable[[str], None],
) -> None:
    engine = await open_for(planned.spec, planned.settings, planned.team, note)
    try:
        planned.begin(engine.model)
        played.started = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        with Grader() as grader:
            await _play_all(engine, grader, planned, todo, played, on_progress)
    finally:
        await engine.close()
        played.stop()


async def _play_all(
    engine: Engine,
    grader: Grader,
    planned: Plan,
    todo: list[Unplayed],
    played: _Played,
    on_progress: OnProgress,
) -> None:
    spec, team = planned.spec, planned.team
    parts = CompletionParts(planned.out)
    rows: list[dict[str, Any]] = []
    total = sum(len(settings) for _, _, settings in todo)
    started = flushed = time.monotonic()
    room = asyncio.Semaphore(2 * engine.gate.width)

    def flush() -> None:
        nonlocal flushed
        if rows:
            parts.add(rows)
            rows.clear()
        flushed = time.monotonic()

    async def one(seed: int, question: Question, settings: list[Setting]) -> None:
        memo = Memo(engine, spec.prompts, spec.temperature, spec.max_tokens or 0, played.add)
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
            room.release()
        made = [
            _row(setting, seed, question, turn, await _verdict(question, turn, grader))
            for setting, found in zip(settings, turns, strict=True)
            for turn in found
        ]
        rows.extend(made)  # at once: a flush in between would cut a unit in two
        played.units += len(settings)
        on_progress(played.units, total)
        if time.monotonic() - flushed > _FLUSH_SECONDS:
            flush()

    try:
        async with asyncio.TaskGroup() as group:
            for seed, question, settings in todo:
                await room.acquire()
                group.create_task(one(seed, question, settings))
    except* MaltError as error:
        raise error.exceptions[0] from None
    finally:
        played.seconds = time.monotonic() - started
        flush()


async def _verdict(question: Question, turn: Turn, grader: Grader) -> str:
    return await grader.verdict(turn.answer, question.gold, question.kind, question.choices)


def _row(
    setting: Setting, seed: int, question: Question, turn: Turn, verdict: str
) -> dict[str, Any]:
    completion = turn.completion
    graded = grade_columns(turn.answer, verdict, leaf=False)
    return {
        "setting": setting.name,
        "seed": seed,
        "question_id": question.question_id,
        "pass": turn.passed,
        "turn": turn.turn,
        "role": turn.role,
        "adapter": turn.adapter,
        "messages": json.dumps(turn.messages, ensure_ascii=False),
        "text": completion.text,
        "answer": turn.answer,
        "correct": graded["correct"],
        "verdict": graded["verdict"],
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "sampling_seed": completion.seed,
        "latency": completion.latency,
    }
