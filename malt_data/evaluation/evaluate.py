"""An evaluation: every setting on every question under every seed, kept, resumed, counted.

    report = evaluate(plan(spec, find(["sa", "malt+mv"]), team, Path("results"), seeds=4))

The unit is one question under one seed, over all settings: they share what they have in common.
A finished unit is in `completions/` whole or not at all; started again, only missing ones are
played. `predictions.parquet` is made anew from the completions at the end.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from malt_data.builders.build import complete
from malt_data.builders.tree import judged, verdict_on
from malt_data.engines import Engine
from malt_data.engines.opening import open_engine
from malt_data.errors import EngineDown, EngineError, EvalError, MaltError
from malt_data.evaluation.play import Memo, Team, Turn, play
from malt_data.evaluation.results import (
    MANIFEST,
    QUESTIONS,
    compact,
    parts,
    write_part,
    write_predictions,
)
from malt_data.evaluation.settings import Setting
from malt_data.evaluation.vote import ballots, majority
from malt_data.forests.forest import provenance, question_table
from malt_data.forests.parts import lock, torn, write_table, write_text
from malt_data.graders import Grader
from malt_data.schemas.evaluation import COMPLETIONS, STAMP
from malt_data.schemas.ids import question_id
from malt_data.schemas.manifest import Spec

if TYPE_CHECKING:
    from malt_data.builders.questions import Question

Unit = tuple[str, int, str]
"""(setting, seed, question_id)."""

_FLUSH_SECONDS = 5.0
_ELSEWHERE = ("base_url", "concurrency", "adapters", "shard", "limit")
Watch = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """What an evaluation is to ask, checked, before anything is written."""

    spec: Spec
    settings: list[Setting]
    team: Team
    out: Path
    drawn: "dict[int, list[Question]]"
    """The questions of each seed."""
    manifest: dict[str, Any]

    @property
    def questions(self) -> "list[Question]":
        """Every question once."""
        return list({q.question_id: q for drawn in self.drawn.values() for q in drawn}.values())

    @property
    def units(self) -> int:
        """Settings by questions by seeds."""
        return len(self.settings) * sum(map(len, self.drawn.values()))

    @property
    def names(self) -> list[str]:
        """The settings that the results will hold, those of earlier runs too."""
        return [setting["name"] for setting in self.manifest["settings"]]

    def todo(self) -> "list[tuple[int, Question, list[Setting]]]":
        """Return (seed, question, settings) of which `out` lacks the completions."""
        done = played(self.out)
        return [
            (seed, question, missing)
            for seed, questions in self.drawn.items()
            for question in questions
            if (missing := _missing(self.settings, seed, question, done))
        ]

    def facts(self) -> dict[str, Any]:
        """Return the size of it. completions: at most; what settings share is asked once."""
        todo = self.todo()
        return {
            "units": self.units,
            "missing": sum(len(settings) for _, _, settings in todo),
            "completions": sum(s.completions for _, _, settings in todo for s in settings),
            "questions": len(self.questions),
            "settings": [setting.name for setting in self.settings],
        }


def plan(
    spec: Spec,
    settings: list[Setting],
    team: Team,
    out: Path,
    *,
    seeds: int = 1,
    seen: "frozenset[str]" = frozenset(),
    allow_seen: bool = False,
) -> Plan:
    """Return what `evaluate` would do with the same arguments, and raise what it would refuse."""
    from malt_data.builders.questions import load_questions

    for setting in settings:
        if setting.adapters != "none" and not team[setting.adapters]:
            raise EvalError(
                f"The setting {setting.name} needs the {setting.adapters} adapters of a team: "
                "--team team.toml"
            )
    spec = complete(spec, None)
    loaded = load_questions(
        spec.questions, split=spec.split, grader=spec.grader, fields=spec.fields
    )
    drawn = {seed: draw(loaded.questions, spec.limit, seed) for seed in range(seeds)}
    asked = {q.question_id for questions in drawn.values() for q in questions}
    refuse_seen(asked & seen, len(asked), allow_seen)
    manifest = _manifest(spec.model_copy(update={"split": loaded.split}), settings, team, seeds)
    return Plan(spec, settings, team, out, drawn, _joined(out, manifest))


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
        _begin(planned)
        todo = planned.todo()
        failed: dict[str, str] = {}
        try:
            if todo:
                failed = asyncio.run(_run(planned, todo, watch, note))
        finally:
            compact(out)
            write_predictions(out)
    played_now = sum(len(settings) for _, _, settings in todo)
    return {"units": planned.units, "played": played_now, "failed": failed}


def draw(questions: "list[Question]", limit: int | None, seed: int) -> "list[Question]":
    """Return `limit` questions drawn by `seed` (all without a limit), in the order of the draw."""
    if limit is None:
        return questions

    def key(question: "Question") -> str:
        return hashlib.sha256(f"{seed}:{question.question_id}".encode()).hexdigest()

    return sorted(questions, key=key)[:limit]


def refuse_seen(seen: set[str], asked: int, allow: bool) -> None:
    """Raise EvalError where questions were trained on, unless that is allowed."""
    if seen and not allow:
        raise EvalError(
            f"{len(seen)} of the {asked} questions are in the team's training data, e.g. "
            f"{min(seen)}. Take another split (--split test), or say --allow-seen."
        )


def played(out: Path) -> set[Unit]:
    """Return the units whose completions are in `out`."""
    found: set[Unit] = set()
    for path in parts(out):
        try:
            table = pq.read_table(path, columns=["setting", "seed", "question_id"])
        except (OSError, pa.ArrowException) as error:
            raise torn(path, error) from error
        found.update(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
    return found


def _missing(
    settings: list[Setting], seed: int, question: "Question", done: set[Unit]
) -> list[Setting]:
    return [s for s in settings if (s.name, seed, question.question_id) not in done]


def _manifest(spec: Spec, settings: list[Setting], team: Team, seeds: int) -> dict[str, Any]:
    facts = spec.model_dump(mode="json")
    return {
        "schema": STAMP.decode(),
        "spec": {key: facts[key] for key in facts if key not in _ELSEWHERE},
        "team": team,
        "settings": [setting.model_dump(mode="json") for setting in settings],
        "seeds": seeds,
    }


def _joined(out: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return `manifest` with what `out` has already: settings and seeds may be added.

    Raises EvalError where the two are of different evaluations.
    """
    path = out / MANIFEST
    if not path.exists():
        others = [p.name for p in out.iterdir() if p.name[0] != "."] if out.exists() else []
        if others:
            raise EvalError(f"{out} holds other files ({others[0]}). Choose a new one: --out NAME")
        return manifest
    before = json.loads(path.read_bytes())
    now = json.loads(json.dumps(manifest))
    for key in ("schema", "spec", "team"):
        if before.get(key) != now[key]:
            raise EvalError(
                f"{out} holds an evaluation with another {key}. Use the same settings, or a "
                "new folder: --out NAME"
            )
    known = {setting["name"]: setting for setting in before["settings"]}
    for setting in now["settings"]:
        if known.get(setting["name"], setting) != setting:
            raise EvalError(
                f"{out} holds another setting {setting['name']}. Choose a new name for it, or "
                "a new folder: --out NAME"
            )
    return manifest | {
        "settings": list((known | {s["name"]: s for s in now["settings"]}).values()),
        "seeds": max(before["seeds"], now["seeds"]),
    }


def _begin(planned: Plan) -> None:
    """Write eval.json and questions.parquet, with what is there already."""
    joined = _joined(planned.out, planned.manifest)  # again: another may have ended meanwhile
    facts = joined | {"provenance": provenance()}
    write_text(planned.out / MANIFEST, json.dumps(facts, indent=2) + "\n")  # first: it says whose
    path = planned.out / QUESTIONS
    table = question_table(planned.questions)
    if path.exists():
        stored = pq.read_table(path)
        new = pc.invert(pc.is_in(table["question_id"], stored["question_id"]))
        table = pa.concat_tables([stored.cast(table.schema), table.filter(new)])
    write_table(path, table)


def ask(
    text: str,
    spec: Spec,
    setting: Setting,
    team: Team,
    *,
    seed: int = 0,
    heard: Callable[[Turn], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[str | None, list[str | None]]:
    """Answer one question; return (answer after the vote, the passes' answers).

    heard: each turn the moment it lands. The kind of question is spec's grader, or numeric.
    Raises EngineError where no completion can be had.
    """
    from malt_data.builders.questions import Question

    kind: Any = "numeric" if spec.grader == "auto" else spec.grader
    spec = complete(spec, None)
    question = Question(question_id(text, None), "asked", "", text, None, "", "{}", kind)

    async def once() -> list[Turn]:
        engine = await _open(spec, team, note)
        memo = Memo(engine, spec.prompts, spec.temperature, spec.max_tokens or 0)
        try:
            return await play(question, setting, seed, memo, team, heard)
        finally:
            await memo.close()
            await engine.close()

    votes = ballots(setting, asyncio.run(once()))
    with Grader() as grader:
        return majority(votes, lambda a, b: a == b or grader.grade(a, b, kind) == "right"), votes


async def _open(spec: Spec, team: Team, note: Callable[[str], None]) -> Engine:
    names = sorted({name for part in team.values() for name in part.values()})
    adapters = {str(number): name for number, name in enumerate(names)}
    return await open_engine(spec.model_copy(update={"adapters": adapters}), note)


async def _run(
    planned: Plan,
    todo: "list[tuple[int, Question, list[Setting]]]",
    watch: Watch,
    note: Callable[[str], None],
) -> dict[str, str]:
    engine = await _open(planned.spec, planned.team, note)
    try:
        with Grader() as grader:
            return await _play_all(engine, grader, planned, todo, watch)
    finally:
        await engine.close()


async def _play_all(
    engine: Engine,
    grader: Grader,
    planned: Plan,
    todo: "list[tuple[int, Question, list[Setting]]]",
    watch: Watch,
) -> dict[str, str]:
    spec, team, out = planned.spec, planned.team, planned.out
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    total = sum(len(settings) for _, _, settings in todo)
    state = {"done": 0, "flushed": time.monotonic()}
    room = asyncio.Semaphore(2 * engine.gate.width)

    def flush() -> None:
        if rows:
            write_part(out, pa.Table.from_pylist(rows, schema=COMPLETIONS))
            rows.clear()
        state["flushed"] = time.monotonic()

    async def one(seed: int, question: "Question", settings: list[Setting]) -> None:
        memo = Memo(engine, spec.prompts, spec.temperature, spec.max_tokens or 0)
        try:
            turns = await asyncio.gather(
                *(play(question, setting, seed, memo, team) for setting in settings)
            )
        except EngineDown:
            raise
        except EngineError as error:
            failed[question.question_id] = str(error)
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
        state["done"] += len(settings)
        watch(int(state["done"]), total)
        if time.monotonic() - state["flushed"] > _FLUSH_SECONDS:
            flush()

    try:
        async with asyncio.TaskGroup() as group:
            for seed, question, settings in todo:
                await room.acquire()
                group.create_task(one(seed, question, settings))
    except* MaltError as error:
        raise error.exceptions[0] from None
    finally:
        flush()
    return failed


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
        "latency": turn.latency,
    }
