"""An evaluation: every setting on every question under every seed, kept, resumed, counted.

    report = evaluate(spec, find(["sa", "malt+mv"]), team, Path("results"), seeds=4)

The unit is one question under one seed, over all settings: they share what they have in common.
A finished unit is in `completions/` whole or not at all; started again, only missing ones are
played. `predictions.parquet` is made anew from the completions at the end.
"""

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from malt_data.builders.build import complete
from malt_data.engines import Engine
from malt_data.engines.opening import open_engine
from malt_data.errors import EngineDown, EngineError, EvalError, MaltError
from malt_data.evaluation.play import Memo, Team, Turn, play
from malt_data.evaluation.results import write_predictions
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

MANIFEST = "eval.json"
PARTS = "completions"
QUESTIONS = "questions.parquet"
Unit = tuple[str, int, str]
"""(setting, seed, question_id)."""

_FLUSH_SECONDS = 5.0
_ELSEWHERE = ("base_url", "concurrency", "adapters", "shard", "limit")
Watch = Callable[[int, int], None]


def evaluate(
    spec: Spec,
    settings: list[Setting],
    team: Team,
    out: Path,
    *,
    seeds: int = 1,
    seen: "frozenset[str]" = frozenset(),
    allow_seen: bool = False,
    watch: Watch = lambda done, total: None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Play what `out` lacks and write predictions.parquet; return {"units", "played", "failed"}.

    spec: questions, split, engine and sampling, as for a build; `limit` questions are drawn for
    each seed anew, as in the paper (§5.2). seen: ids of questions that the team was trained on.
    Raises EvalError for seen questions (unless `allow_seen`), a setting without its adapters, or a
    folder with another evaluation; EngineDown where no completion can be had.
    """
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
    asked = {q.question_id: q for questions in drawn.values() for q in questions}
    refuse_seen(set(asked) & seen, len(asked), allow_seen)
    manifest = _manifest(spec.model_copy(update={"split": loaded.split}), settings, team, seeds)
    with lock(out, wait=False) as mine:
        if not mine:
            raise EvalError(f"{out} is being written by another evaluation. Wait for it.")
        _begin(out, manifest, list(asked.values()))
        done = played(out)
        todo = [
            (seed, question, missing)
            for seed, questions in drawn.items()
            for question in questions
            if (missing := _missing(settings, seed, question, done))
        ]
        units = len(settings) * sum(map(len, drawn.values()))
        failed: dict[str, str] = {}
        try:
            if todo:
                failed = asyncio.run(_run(spec, todo, team, out, watch, note))
        finally:
            write_predictions(out)
    return {"units": units, "played": sum(len(m) for _, _, m in todo), "failed": failed}


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
    for path in sorted((out / PARTS).glob("part-*.parquet")):
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


def _begin(out: Path, manifest: dict[str, Any], questions: "list[Question]") -> None:
    """Write eval.json and questions.parquet, or see that those there are of the same evaluation.

    More settings and more seeds may be added; what was sampled otherwise is refused.
    """
    path = out / MANIFEST
    if not path.exists():
        if others := [p.name for p in out.iterdir() if not p.name.startswith(".")]:
            raise EvalError(f"{out} holds other files ({others[0]}). Choose a new one: --out NAME")
    else:
        before = json.loads(path.read_bytes())
        now = json.loads(json.dumps(manifest))
        for key in ("schema", "spec", "team"):
            if before.get(key) != now[key]:
                raise EvalError(
                    f"{out} holds an evaluation with another {key}. Use the same settings, or a "
                    "new folder: --out NAME"
                )
        known = {setting["name"]: setting for setting in before["settings"]}
        manifest = manifest | {
            "settings": list((known | {s["name"]: s for s in manifest["settings"]}).values()),
            "seeds": max(before["seeds"], manifest["seeds"]),
        }
        for setting in now["settings"]:
            if known.get(setting["name"], setting) != setting:
                raise EvalError(
                    f"{out} holds another setting {setting['name']}. Choose a new name for it, or "
                    "a new folder: --out NAME"
                )
    table = question_table(questions)
    if (out / QUESTIONS).exists():
        before_it = pq.read_table(out / QUESTIONS)
        new = pc.invert(pc.is_in(table["question_id"], before_it["question_id"]))
        table = pa.concat_tables([before_it.cast(table.schema), table.filter(new)])
    write_table(out / QUESTIONS, table)
    write_text(path, json.dumps(manifest | {"provenance": provenance()}, indent=2) + "\n")


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
    spec: Spec,
    todo: "list[tuple[int, Question, list[Setting]]]",
    team: Team,
    out: Path,
    watch: Watch,
    note: Callable[[str], None],
) -> dict[str, str]:
    engine = await _open(spec, team, note)
    try:
        return await _play_all(engine, spec, todo, team, out, watch)
    finally:
        await engine.close()


async def _play_all(
    engine: Engine,
    spec: Spec,
    todo: "list[tuple[int, Question, list[Setting]]]",
    team: Team,
    out: Path,
    watch: Watch,
) -> dict[str, str]:
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    total = sum(len(settings) for _, _, settings in todo)
    state = {"done": 0, "flushed": time.monotonic()}
    room = asyncio.Semaphore(2 * engine.gate.width)

    def flush() -> None:
        if rows:
            write_table(out / PARTS / f"part-{uuid.uuid4().hex[:16]}.parquet", _table(rows))
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
        for setting, found in zip(settings, turns, strict=True):
            rows.extend(_row(setting, seed, question, turn) for turn in found)
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


def _row(setting: Setting, seed: int, question: "Question", turn: Turn) -> dict[str, Any]:
    completion = turn.completion
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
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "sampling_seed": completion.seed,
        "latency": turn.latency,
    }


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=COMPLETIONS)
