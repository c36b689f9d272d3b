"""Read the completions of files, each by the reader of its kind, which its content tells.

completions = read_files([Path("rollouts.jsonl"), Path("run.eval")], ImportSpec(), left_out)
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from malt_data.errors import ImportsError, SpecError
from malt_data.importers.completions import Imported
from malt_data.importers.inspect_logs import read_log
from malt_data.importers.rows import NAMES, read_rows
from malt_data.importers.traces import is_episode, read_episodes
from malt_data.questions.candidates import Names
from malt_data.questions.fields import FIELDS
from malt_data.questions.files import read_file
from malt_data.questions.loading import field_names
from malt_data.schemas.spec import ImportSpec

_FORMATS = (".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz")
_LOG = ".eval"


def question_names(spec: ImportSpec) -> Names:
    """Return the fields that a question may be in; raise SpecError for an unknown key."""
    if unknown := sorted({*spec.fields} - {*NAMES}):
        raise SpecError(f"fields: unknown key {unknown[0]!r}. Choose from: {', '.join(NAMES)}.")
    return field_names({key: name for key, name in spec.fields.items() if key in FIELDS})


def read_files(files: Sequence[Path], spec: ImportSpec, left_out: Counter[str]) -> list[Imported]:
    """Return the completions of all files; count in `left_out` those that are unusable.

    Raises ImportsError or QuestionsError, naming file
    and line, for what cannot be read, is no completion, or cannot be stored.
    """
    found: list[Imported] = []
    for file, path in enumerate(files):
        _require_file(path)
        for completion in _read(path, file, spec, left_out):
            if (role := completion.role) in spec.roles:
                completion = replace(completion, role=spec.roles[role])
            found.append(completion)
    return found


def _require_file(path: Path) -> None:
    if not path.exists():
        raise ImportsError(f"No such file: {path}.")
    if not path.is_file():
        raise ImportsError(f"{path} is not a file. Pass the files themselves.")
    if not path.name.lower().endswith((*_FORMATS, _LOG)):
        raise ImportsError(
            f"{path} has an unsupported extension; expected .jsonl, .json, .parquet or .eval. "
            "Convert or rename the file."
        )


def _read(path: Path, file: int, spec: ImportSpec, left_out: Counter[str]) -> Iterator[Imported]:
    if path.name.lower().endswith(_LOG):
        return read_log(path, file, left_out)
    rows = read_file(path, str(path))
    first = next(rows, None)
    if first is None:
        raise ImportsError(f"{path} is empty.")
    rows = chain([first], rows)
    if is_episode(first[1]):
        given = "pipeline" in spec.model_fields_set
        roles = tuple(turn.role for turn in spec.pipeline.turns) if given else None
        return read_episodes(rows, file, roles, spec.roles, left_out)
    return read_rows(rows, file, spec.fields)
