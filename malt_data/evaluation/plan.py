"""Plan an evaluation and check it against its output folder before anything is written.

    plan = plan_evaluation(spec, settings, team, "results", seeds=4)
    plan.facts()["completions"]

eval.json records what answers depend on; a later run may only write to the same folder if all of it
is the same. It may add settings, seeds and questions, and a team if there was none.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from malt_data.errors import EvalError
from malt_data.evaluation.parts import (
    CompletionParts,
    read_manifest,
    read_questions,
    stored_pipeline,
    team_of,
)
from malt_data.evaluation.settings import Setting, require_adapters, require_playable
from malt_data.graders import label_of
from malt_data.prompts.resolve import resolve_sampling
from malt_data.prompts.templates import kept_kinds, require_prompts
from malt_data.questions.loading import load_questions
from malt_data.schemas import layout
from malt_data.schemas.evaluation import STAMP
from malt_data.schemas.forest import Question, question_table
from malt_data.schemas.ids import sampling_key
from malt_data.schemas.spec import EvalSpec
from malt_data.schemas.team import AdapterSets
from malt_data.storage.files import write_text
from malt_data.storage.parquet import read_table, write_table
from malt_data.storage.provenance import provenance

Unit = tuple[str, int, str]
"""(setting, seed, question_id)."""
Unplayed = tuple[int, Question, list[Setting]]
"""(seed, question, the settings whose completions are missing)."""

_ESSENCE = (
    *("questions", "split", "fields", "grader", "engine", "model", "engine_options"),
    *("temperature", "max_tokens", "sampling", "pipeline", "prompts", "chat_template"),
)
"""The settings of the spec that answers depend on."""


@dataclass(frozen=True)
class Plan:
    """A checked evaluation: what to ask, of which team, into which folder."""

    spec: EvalSpec
    settings: list[Setting]
    team: AdapterSets
    out: Path
    sampled: dict[int, list[Question]]
    """The questions of each seed."""
    refused: dict[str, int]
    """Rows of the source that were refused as questions, by reason."""
    manifest: dict[str, Any]

    @property
    def questions(self) -> list[Question]:
        """The distinct questions over all seeds."""
        return list(
            {q.question_id: q for questions in self.sampled.values() for q in questions}.values()
        )

    @property
    def units(self) -> int:
        """Number of (setting, seed, question) combinations."""
        return len(self.settings) * sum(map(len, self.sampled.values()))

    @property
    def names(self) -> list[str]:
        """Names of all settings in the results, including those of earlier runs."""
        return [setting["name"] for setting in self.manifest["settings"]]

    def todo(self) -> list[Unplayed]:
        """Return (seed, question, settings) for which completions are missing in `out`."""
        done = played(self.out)
        return [
            (seed, question, missing)
            for seed, questions in self.sampled.items()
            for question in questions
            if (missing := _missing(self.settings, seed, question, done))
        ]

    def facts(self) -> dict[str, Any]:
        """Return the size of the evaluation; completions is an upper bound, as some are shared."""
        todo = self.todo()
        return {
            "units": self.units,
            "missing": sum(len(settings) for _, _, settings in todo),
            "completions": sum(s.completions for _, _, settings in todo for s in settings),
            "questions": len(self.questions),
            "refused": self.refused,
            "settings": [setting.name for setting in self.settings],
        }

    def begin(self, model: str | None) -> None:
        """Write eval.json and questions.parquet, merged with those of earlier runs.

        model: the model that the engine serves; None if nothing is left to ask. Raises EvalError
        if another evaluation has started in the folder since this one was planned.
        """
        spec = self.manifest["spec"] | {"model": model or self.manifest["spec"]["model"]}
        merged = _merged(self.out, self.manifest | {"spec": spec})
        path = self.out / layout.QUESTIONS
        table = question_table(self.questions)
        if path.exists():
            stored = read_questions(self.out).cast(table.schema)
            _refuse_changed_questions(stored, table, self.out)
            new = pc.invert(pc.is_in(table["question_id"], stored["question_id"]))
            table = pa.concat_tables([stored, table.filter(new)])
        runs = merged["runs"] + ([] if model is None else [provenance()])
        manifest = json.dumps(merged | {"runs": runs}, indent=2) + "\n"
        write_text(self.out / layout.RESULTS, manifest)  # first, as it identifies the folder
        write_table(path, table)


def plan_evaluation(
    spec: EvalSpec,
    settings: list[Setting],
    team: AdapterSets,
    out: str | Path,
    *,
    seeds: int = 1,
    seen: "frozenset[str]" = frozenset(),
    allow_seen: bool = False,
) -> Plan:
    """Plan an evaluation; raise EvalError or SpecError if it cannot run.

    seen: ids of the questions that the team was trained on.
    """
    out = Path(out)
    spec = resolve_sampling(spec)
    require_playable(settings, spec.pipeline, spec.prompts)
    require_adapters(settings, spec.pipeline, team)
    loaded = load_questions(
        spec.questions, split=spec.split, grader=spec.grader, kind=spec.kind, fields=spec.fields
    )
    require_prompts(spec.prompts, spec.pipeline, {q.kind for q in loaded.questions})
    sampled = {seed: sample_questions(loaded.questions, spec.limit, seed) for seed in range(seeds)}
    ids = {q.question_id for questions in sampled.values() for q in questions}
    refuse_seen(ids & seen, len(ids), allow_seen)
    facts = spec.model_dump(mode="json") | {"split": loaded.split, "grader": label_of(spec.grader)}
    facts["pipeline"] = stored_pipeline(spec.pipeline)
    facts["engine_options"] = spec.sampled_by
    manifest = {
        "schema": STAMP.decode(),
        "spec": {key: facts[key] for key in _ESSENCE},
        "questions": loaded.report(),
        "seen": len(ids & seen),
        "team": team,
        "weights": _weights(team),
        "settings": [setting.model_dump(mode="json") for setting in settings],
        "seeds": seeds,
        "runs": [],
    }
    return Plan(spec, settings, team, out, sampled, loaded.counts(), _merged(out, manifest))


def sample_questions(questions: list[Question], limit: int | None, seed: int) -> list[Question]:
    """Return a random sample of `limit` questions, determined by the seed; None: all."""
    if limit is None:
        return questions
    return sorted(questions, key=lambda q: sampling_key(seed, q.question_id))[:limit]


def refuse_seen(seen: set[str], total: int, allow: bool) -> None:
    """Raise EvalError if the team was trained on any question, unless `allow` is set."""
    if seen and not allow:
        raise EvalError(
            f"{len(seen)} of the {total} questions are in the team's training data, e.g. "
            f"{min(seen)}. Use another split (--split test), or pass --allow-seen."
        )


def played(out: Path) -> set[Unit]:
    """Return the units whose completions are in `out`."""
    units: set[Unit] = set()
    for path in CompletionParts(out).paths():
        table = read_table(path, ["setting", "seed", "question_id"])
        units.update(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
    return units


def _missing(
    settings: list[Setting], seed: int, question: Question, done: set[Unit]
) -> list[Setting]:
    return [s for s in settings if (s.name, seed, question.question_id) not in done]


def _weights(team: AdapterSets) -> dict[str, str]:
    """Return a digest of the weights of every local adapter."""
    files = {
        name: Path(name) / "adapter_model.safetensors"
        for adapters in team.values()
        for name in adapters.values()
    }
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for name, path in sorted(files.items())
        if path.exists()
    }


def _merged(out: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return `manifest` merged with the one in `out`.

    Raises EvalError if they are of different evaluations.
    """
    if not (out / layout.RESULTS).exists():
        others = [p.name for p in out.iterdir() if p.name[0] != "."] if out.is_dir() else []
        if others:
            raise EvalError(
                f"{out} contains other files ({others[0]}). Choose a new folder: --out NAME"
            )
        return manifest
    before = read_manifest(out)
    now = json.loads(json.dumps(manifest))
    for key in _ESSENCE:
        old, new = before["spec"].get(key), now["spec"][key]
        if key == "questions":  # the same file, moved
            old, new = (Path(name).name if Path(name).suffix else name for name in (old, new))
        if key == "prompts" and old:
            new = kept_kinds(new, old)
        if old != new and not (key == "model" and new is None):
            values = "" if isinstance(new, dict) else f" ({old}, now {new})"
            raise _mismatch(out, f"{key}{values}")
    weights = before.get("weights", {})
    for name, digest in now["weights"].items():
        if weights.get(name, digest) != digest:
            raise _mismatch(out, f"adapter in {name}, which has been retrained since")
    old_team, new_team = team_of(before), team_of(now)
    if any(old_team.get(name, adapters) != adapters for name, adapters in new_team.items()):
        raise _mismatch(out, "team")
    settings = {setting["name"]: setting for setting in before["settings"]}
    for setting in now["settings"]:
        if settings.get(setting["name"], setting) != setting:
            raise _mismatch(out, f"setting {setting['name']}")
    return manifest | {
        "spec": now["spec"] | {"model": now["spec"]["model"] or before["spec"]["model"]},
        "seen": max(before.get("seen", 0), now["seen"]),
        # Baselines may be trained after the team was first evaluated.
        "team": {k: v for team in (before["team"], now["team"]) for k, v in team.items() if v},
        "weights": weights | now["weights"],
        "settings": list((settings | {s["name"]: s for s in now["settings"]}).values()),
        "seeds": max(before["seeds"], now["seeds"]),
        "runs": before.get("runs", [before.get("provenance")]),
    }


def _refuse_changed_questions(stored: pa.Table, new: pa.Table, out: Path) -> None:
    for what, column in (("gold answer to", "gold"), ("kind of", "kind")):
        before = dict(zip(*(stored[c].to_pylist() for c in ("question_id", column)), strict=True))
        now = zip(*(new[c].to_pylist() for c in ("question_id", column)), strict=True)
        for name, value in now:
            if before.get(name, value) != value:
                change = f"({before[name]}, now {value})"
                raise _mismatch(out, f"{what} question {name} {change}")


def _mismatch(out: Path, what: str) -> EvalError:
    return EvalError(
        f"{out} contains an evaluation with a different {what}. Use the same one, or a new folder: "
        "--out NAME"
    )
