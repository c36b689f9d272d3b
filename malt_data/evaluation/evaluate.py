"""An evaluation: every setting on every question under every seed, kept, resumed, counted.

    report = evaluate(plan(spec, find(["sa", "malt+mv"]), team, Path("results"), seeds=4))

The unit is one question under one seed, over all settings: they share what they have in common.
A finished unit is in `completions/` whole or not at all; started again, only missing ones are
played. `predictions.parquet` is made anew from the completions at the end.
"""

import asyncio
import datetime as dt
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from malt_data.builders.build import complete
from malt_data.builders.tree import judged, verdict_on
from malt_data.engines import Engine
from malt_data.engines.opening import open_engine
from malt_data.engines.usage import Usage
from malt_data.errors import EngineDown, EngineError, EvalError, MaltError
from malt_data.evaluation.plan import Plan, require_adapters
from malt_data.evaluation.play import Memo, Team, Turn, play
from malt_data.evaluation.results import (
    MANIFEST,
    QUESTIONS,
    compact,
    forget,
    parts,
    read_manifest,
    write_part,
    write_predictions,
)
from malt_data.evaluation.settings import Setting
from malt_data.evaluation.vote import ballots, majority
from malt_data.forests.parts import lock, write_text
from malt_data.graders import Grader
from malt_data.questions.fields import MAX_CHOICES
from malt_data.schemas.evaluation import COMPLETIONS
from malt_data.schemas.ids import question_id
from malt_data.schemas.manifest import Spec

if TYPE_CHECKING:
    from malt_data.questions.loading import Question

_FLUSH_SECONDS = 5.0
Watch = Callable[[int, int], None]


@dataclass
class _Played(Usage):
    """What a run did so far: units played, and what each question that was not failed with."""

    started: str | None = None
    units: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def evaluate(
    planned: Plan,
    *,
    watch: Watch = lambda done, total: None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Play what is missing and write predictions.parquet; return {"units", "played", "failed"}.

    Raises EvalError where another evaluation writes there; EngineDown where no completion can be
    had.
    """
    out = planned.out
    with lock(out, wait=False) as mine:
        if not mine:
            raise EvalError(f"{out} is being written by another evaluation. Wait for it.")
        fresh = not (out / MANIFEST).exists()
        todo = planned.todo()
        played = _Played()
        try:
            if todo:
                asyncio.run(_run(planned, todo, played, watch, note))
            else:
                planned.begin(None)
        except EngineError:
            if fresh and not parts(out):  # a wrong model must not settle what this folder is
                forget(out)
            raise
        finally:
            if (out / QUESTIONS).exists():
                if played.started is not None:
                    _record(out, played)
                compact(out)
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
    write_text(out / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def ask(
    text: str,
    spec: Spec,
    setting: Setting,
    team: Team,
    *,
    choices: Sequence[str] = (),
    seed: int = 0,
    heard: Callable[[Turn], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[str | None, list[str | None]]:
    """Answer one question; return (answer after the vote, the passes' answers).

    choices: the texts of A, B, …; the answer is then a letter. Without them the kind of question
    is spec's grader, its kind (a team's data's), or numeric. heard: each turn the moment it lands.
    Raises EvalError where the team lacks the setting's adapters; EngineError where no completion
    can be had.
    """
    require_adapters([setting], team)
    question = _asked(text, choices, spec)
    spec = complete(spec, None)

    async def once() -> list[Turn]:
        engine = await _open(spec, [setting], team, note)
        memo = Memo(engine, spec.prompts, spec.temperature, spec.max_tokens or 0)
        try:
            return await play(question, setting, seed, memo, team, heard)
        finally:
            await memo.close()
            await engine.close()

    votes = ballots((t.passed, t.turn, t.role, t.answer) for t in asyncio.run(once()))
    with Grader() as grader:
        return majority(votes, partial(_same, question, grader)), votes


def _asked(text: str, choices: Sequence[str], spec: Spec) -> "Question":
    """Return the question that a person asks; raise EvalError where it cannot be one."""
    from malt_data.questions.loading import Question

    try:
        "".join([text, *choices]).encode()
    except UnicodeEncodeError:
        raise EvalError("The question is not valid UTF-8. Write it in UTF-8.") from None
    shown = tuple(choice.strip() for choice in choices) or None
    if shown and (not 2 <= len(shown) <= MAX_CHOICES or len(set(shown)) < len(shown)):
        raise EvalError(
            f"A multiple-choice question has 2 to {MAX_CHOICES} different choices, not "
            f"{len(shown)}: repeat --choice TEXT for each."
        )
    free = spec.kind or "numeric" if spec.grader == "auto" else spec.grader
    kind = "choice" if shown else "numeric" if free == "choice" else free
    name = question_id(text, shown)
    return Question(name, "asked", "", text, shown, "", kind, None, "{}")


def _same(question: "Question", grader: Grader, one: str, other: str) -> bool:
    kind: Any = question.kind
    return one == other or grader.grade(one, other, kind, question.choices) == "right"


async def _open(
    spec: Spec, settings: list[Setting], team: Team, note: Callable[[str], None]
) -> Engine:
    used = {
        name
        for setting in settings
        for role in setting.turns
        if (name := setting.adapter(role, team)) is not None
    }
    adapters = {str(number): name for number, name in enumerate(sorted(used))}
    return await open_engine(spec.model_copy(update={"adapters": adapters}), note)


async def _run(
    planned: Plan,
    todo: "list[tuple[int, Question, list[Setting]]]",
    played: _Played,
    watch: Watch,
    note: Callable[[str], None],
) -> None:
    engine = await _open(planned.spec, planned.settings, planned.team, note)
    try:
        planned.begin(engine.model)
        played.started = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        with Grader() as grader:
            await _play_all(engine, grader, planned, todo, played, watch)
    finally:
        await engine.close()
        played.stop()


async def _play_all(
    engine: Engine,
    grader: Grader,
    planned: Plan,
    todo: "list[tuple[int, Question, list[Setting]]]",
    played: _Played,
    watch: Watch,
) -> None:
    spec, team, out = planned.spec, planned.team, planned.out
    rows: list[dict[str, Any]] = []
    total = sum(len(settings) for _, _, settings in todo)
    started = flushed = time.monotonic()
    room = asyncio.Semaphore(2 * engine.gate.width)

    def flush() -> None:
        nonlocal flushed
        if rows:
            write_part(out, pa.Table.from_pylist(rows, schema=COMPLETIONS))
            rows.clear()
        flushed = time.monotonic()

    async def one(seed: int, question: "Question", settings: list[Setting]) -> None:
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
            _row(setting, seed, question, turn, await verdict_on(question, turn.answer, grader))
            for setting, found in zip(settings, turns, strict=True)
            for turn in found
        ]
        rows.extend(made)  # at once: a flush in between would cut a unit in two
        played.units += len(settings)
        watch(played.units, total)
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


def _row(
    setting: Setting, seed: int, question: "Question", turn: Turn, verdict: str
) -> dict[str, Any]:
    completion = turn.completion
    graded = judged(turn.answer, verdict, turn.turn)
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
