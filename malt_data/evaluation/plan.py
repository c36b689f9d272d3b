"""What an evaluation is to ask, checked against what its folder holds, before anything is written.

    planned = plan_evaluation(spec, settings, team, "results", seeds=4)
    planned.facts()["completions"]

eval.json keeps what the answers depend on: two runs fill one folder only where all of that is the
same. Settings, seeds and questions may be added, and a team where none was.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from malt_data.errors import EvalError
from malt_data.evaluation.parts import CompletionParts, read_manifest, read_questions
from malt_data.evaluation.settings import Setting, require_adapters
from malt_data.prompts.resolve import resolve_sampling
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

_ESSENCE = ("questions", "split", "fields", "grader", "engine", "model", "temperature",
            "max_tokens", "prompts")  # fmt: skip
"""The settings of a build that answers depend on; those of a tree, its seed and labels do not."""


@dataclass(frozen=True)
class Plan:
    """What an evaluation is to ask, checked, before anything is written."""

    spec: EvalSpec
    settings: list[Setting]
    team: AdapterSets
    out: Path
    sampled: dict[int, list[Question]]
    """The questions of each seed."""
    refused: dict[str, int]
    """Rows of the source that are no questions, by reason."""
    manifest: dict[str, Any]

    @property
    def questions(self) -> list[Question]:
        """Every question once."""
        return list(
            {q.question_id: q for questions in self.sampled.values() for q in questions}.values()
        )

    @property
    def units(self) -> int:
        """Settings by questions by seeds."""
        return len(self.settings) * sum(map(len, self.sampled.values()))

    @property
    def names(self) -> list[str]:
        """The settings that the results will hold, those of earlier runs too."""
        return [setting["name"] for setting in self.manifest["settings"]]

    def todo(self) -> list[Unplayed]:
        """Return (seed, question, settings) of which `out` lacks the completions."""
        done = played(self.out)
        return [
            (seed, question, missing)
            for seed, questions in self.sampled.items()
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
            "refused": self.refused,
            "settings": [setting.name for setting in self.settings],
        }

    def begin(self, model: str | None) -> None:
        """Write eval.json and questions.parquet, with what is there already.

        model: what the engine serves; None where nothing is left to ask. Raises EvalError where
        the folder is of another evaluation, which may have begun there since this was planned.
        """
        spec = self.manifest["spec"] | {"model": model or self.manifest["spec"]["model"]}
        joined = _joined(self.out, self.manifest | {"spec": spec})
        path = self.out / layout.QUESTIONS
        table = question_table(self.questions)
        if path.exists():
            stored = read_questions(self.out).cast(table.schema)
            _refuse_other_golds(stored, table, self.out)
            new = pc.invert(pc.is_in(table["question_id"], stored["question_id"]))
            table = pa.concat_tables([stored, table.filter(new)])
        runs = joined["runs"] + ([] if model is None else [provenance()])
        facts = joined | {"runs": runs}
        write_text(
            self.out / layout.RESULTS, json.dumps(facts, indent=2) + "\n"
        )  # first: it says whose
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
    """Return what `evaluate` would do, and raise what it would refuse.

    seen: ids of the questions that the team was trained on.
    """
    out = Path(out)
    require_adapters(settings, team)
    spec = resolve_sampling(spec)
    loaded = load_questions(
        spec.questions, split=spec.split, grader=spec.grader, kind=spec.kind, fields=spec.fields
    )
    sampled = {seed: sample_questions(loaded.questions, spec.limit, seed) for seed in range(seeds)}
    asked = {q.question_id for questions in sampled.values() for q in questions}
    refuse_seen(asked & seen, len(asked), allow_seen)
    facts = spec.model_copy(update={"split": loaded.split}).model_dump(mode="json")
    manifest = {
        "schema": STAMP.decode(),
        "spec": {key: facts[key] for key in _ESSENCE},
        "questions": loaded.report(),
        "seen": len(asked & seen),
        "team": team,
        "weights": _weights(team),
        "settings": [setting.model_dump(mode="json") for setting in settings],
        "seeds": seeds,
        "runs": [],
    }
    return Plan(spec, settings, team, out, sampled, loaded.counts(), _joined(out, manifest))


def sample_questions(questions: list[Question], limit: int | None, seed: int) -> list[Question]:
    """Return a random sample of `limit` questions, the same for the same seed; None: all."""
    if limit is None:
        return questions
    return sorted(questions, key=lambda q: sampling_key(seed, q.question_id))[:limit]


def refuse_seen(seen: set[str], asked: int, allow: bool) -> None:
    """Raise EvalError where questions were trained on, unless that is allowed."""
    if seen and not allow:
        raise EvalError(
            f"{len(seen)} of the {asked} questions are in the team's training data, e.g. "
            f"{min(seen)}. Take another split (--split test), or pass --allow-seen."
        )


def played(out: Path) -> set[Unit]:
    """Return the units whose completions are in `out`."""
    found: set[Unit] = set()
    for path in CompletionParts(out).paths():
        table = read_table(path, ["setting", "seed", "question_id"])
        found.update(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
    return found


def _missing(
    settings: list[Setting], seed: int, question: Question, done: set[Unit]
) -> list[Setting]:
    return [s for s in settings if (s.name, seed, question.question_id) not in done]


def _weights(team: AdapterSets) -> dict[str, str]:
    """Return a digest of every adapter that lies in a folder."""
    files = {
        name: Path(name) / "adapter_model.safetensors"
        for part in team.values()
        for name in part.values()
    }
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for name, path in sorted(files.items())
        if path.exists()
    }


def _joined(out: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return `manifest` with what `out` has already.

    Raises EvalError where the two are of different evaluations.
    """
    if not (out / layout.RESULTS).exists():
        others = [p.name for p in out.iterdir() if p.name[0] != "."] if out.is_dir() else []
        if others:
            raise EvalError(f"{out} holds other files ({others[0]}). Choose a new one: --out NAME")
        return manifest
    before = read_manifest(out)
    now = json.loads(json.dumps(manifest))
    for key in _ESSENCE:
        old, new = before["spec"].get(key), now["spec"][key]
        if key == "questions":  # the same file, moved
            old, new = (Path(name).name if Path(name).suffix else name for name in (old, new))
        if (
            key == "prompts" and old
        ):  # a kind that malt-data has learnt since changes no answer there
            new = {kind: templates for kind, templates in new.items() if kind in old}
        if old != new and not (key == "model" and new is None):
            values = "" if isinstance(new, dict) else f" ({old}, now {new})"
            raise _other(out, f"{key}{values}")
    teams = [{k: v for k, v in one["team"].items() if v} for one in (before, now)]
    if any(teams[0].get(name, found) != found for name, found in teams[1].items()):
        raise _other(out, "team")
    weights = before.get("weights", {})
    for name, digest in now["weights"].items():
        if weights.get(name, digest) != digest:
            raise _other(out, f"adapter in {name}: it was trained anew since")
    known = {setting["name"]: setting for setting in before["settings"]}
    for setting in now["settings"]:
        if known.get(setting["name"], setting) != setting:
            raise _other(out, f"setting {setting['name']}")
    return manifest | {
        "spec": now["spec"] | {"model": now["spec"]["model"] or before["spec"]["model"]},
        "seen": max(before.get("seen", 0), now["seen"]),
        "team": teams[0] | teams[1],  # baselines may be trained after the team was first evaluated
        "weights": weights | now["weights"],
        "settings": list((known | {s["name"]: s for s in now["settings"]}).values()),
        "seeds": max(before["seeds"], now["seeds"]),
        "runs": before.get("runs", [before.get("provenance")]),
    }


def _refuse_other_golds(stored: pa.Table, asked: pa.Table, out: Path) -> None:
    golds = dict(zip(*(stored[c].to_pylist() for c in ("question_id", "gold")), strict=True))
    for name, gold in zip(*(asked[c].to_pylist() for c in ("question_id", "gold")), strict=True):
        if golds.get(name, gold) != gold:
            raise _other(out, f"gold answer to question {name} ({golds[name]}, now {gold})")


def _other(out: Path, what: str) -> EvalError:
    return EvalError(
        f"{out} holds another evaluation, with another {what}. Use the same, or a new folder: "
        "--out NAME"
    )
