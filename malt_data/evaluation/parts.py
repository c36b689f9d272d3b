"""Read and write the folder of an evaluation: manifest, questions, parts with completions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from malt_data.errors import EvalError, SpecError
from malt_data.schemas import layout
from malt_data.schemas.evaluation import COMPLETIONS, STAMP
from malt_data.schemas.pipeline import ChatTemplate, Pipeline, shipped
from malt_data.schemas.versions import upgrade
from malt_data.storage.documents import read_json
from malt_data.storage.parquet import Footer, read_table
from malt_data.storage.parts import Parts

_ORDER = ("setting", "seed", "question_id", "pass", "turn")


class CompletionParts(Parts):
    """The part files of an evaluation's completions; a unit is never split over parts."""

    def __init__(self, out: Path) -> None:
        super().__init__(out / layout.COMPLETIONS)

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Write the completions of whole units as one part."""
        self.write(pa.Table.from_pylist(rows, schema=COMPLETIONS))

    def _check(self, path: Path, footer: Footer) -> None:
        pass  # `read_manifest` checks the version of the whole folder

    def _merged(self, paths: Sequence[Path]) -> pa.Table:
        tables = [pq.read_table(path, schema=COMPLETIONS) for path in paths]
        table = pa.concat_tables(tables).sort_by([(name, "ascending") for name in _ORDER])
        return table.replace_schema_metadata(COMPLETIONS.metadata)


def stored_pipeline(pipeline: Pipeline) -> dict[str, Any]:
    """Return what answers depend on in a pipeline: not its name or branching; prompts are apart."""
    facts = pipeline.model_dump(mode="json", include={"turns", "aliases"})
    return facts | {"turns": [{k: turn[k] for k in turn if k != "n"} for turn in facts["turns"]]}


_BEFORE_PIPELINES = {
    "pipeline": stored_pipeline(shipped()),
    "chat_template": ChatTemplate().model_dump(mode="json"),
    "sampling": {},
    "engine_options": {},
}
"""What older versions played, without storing it."""


def pipeline_of(manifest: dict[str, Any]) -> Pipeline:
    """Return the pipeline of an evaluation, without prompts."""
    return Pipeline(**manifest["spec"]["pipeline"])


def team_of(manifest: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return the adapters by set and role, local ones by a digest of their weights.

    So a team is known again in another folder. Sets without adapters are left out.
    """
    weights = manifest.get("weights", {})
    return {
        name: {role: weights.get(adapter, adapter) for role, adapter in adapters.items()}
        for name, adapters in manifest["team"].items()
        if adapters
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the content of `folder`/eval.json; raise EvalError if it is corrupt or too new."""
    path = folder / layout.RESULTS
    try:
        facts = read_json(path)
        stamp = facts["schema"]
        if stamp == STAMP.decode():
            facts["spec"] = _BEFORE_PIPELINES | facts["spec"]
            pipeline_of(facts)  # raises SpecError
    except (OSError, ValueError, KeyError, TypeError, SpecError) as error:
        raise EvalError(
            f"{path} cannot be read ({error}). Restore it, or evaluate into a new folder. "
            f"The completions in {folder / layout.COMPLETIONS} are untouched."
        ) from None
    if stamp != STAMP.decode():
        raise EvalError(
            f"{path} has schema {stamp}, but this malt-data reads {STAMP.decode()}. "
            "Upgrade malt-data: pip install -U malt-data"
        )
    return facts


def read_questions(out: Path) -> pa.Table:
    """Return the questions of an evaluation, upgraded to the newest schema version."""
    return upgrade(read_table(out / layout.QUESTIONS), str(out / layout.QUESTIONS))


def discard(out: Path) -> None:
    """Remove the files of an evaluation without completions from `out`."""
    for name in (layout.RESULTS, layout.QUESTIONS, layout.PREDICTIONS):
        (out / name).unlink(missing_ok=True)
