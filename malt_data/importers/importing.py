"""Import completions that something else sampled: place, grade and label them as a build does.

    report = import_forest(["rollouts.jsonl"], "forest")
    report.trees, report.left_out

The forest appears whole or not at all: it is written beside its place and renamed.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from malt_data.errors import ImportsError
from malt_data.forests.create import create_forest
from malt_data.forests.labels import node_table
from malt_data.forests.parts import TREES_PER_PART
from malt_data.graders import Grader, is_own, kind_of, require_grader, require_kind
from malt_data.importers.completions import DETAILS, UNKNOWN, Imported
from malt_data.importers.questions import Asked, ask
from malt_data.importers.reading import question_names, read_files
from malt_data.importers.trees import Linked, fit_pipeline, link, place, size, widest
from malt_data.importers.trees import Path as Place
from malt_data.prompts.resolve import resolve_prompts
from malt_data.prompts.templates import require_prompts
from malt_data.schemas.forest import Question
from malt_data.schemas.ids import child_id
from malt_data.schemas.pipeline import Pipeline
from malt_data.schemas.spec import IMPORTED, BuildSpec, ImportSpec
from malt_data.storage.files import atomic_folder
from malt_data.storage.folders import refuse_folder

INCOMPLETE = "nothing under it reaches the last turn"

Tree = Sequence[tuple[Place, Imported]]
Note = Callable[[str], None]


@dataclass
class ImportReport:
    """What an import found.

    completions: in the forest, by role. left_out: completions that are not, by reason. refused:
    questions that cannot be graded, by reason, whose completions are in neither count. dropped:
    fields that no column has. pipeline: the turns, with the largest branching of each.
    """

    trees: int
    completions: dict[str, int]
    pipeline: str
    left_out: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def summary(self, folder: Path, *, dry_run: bool = False) -> str:
        """Return a one-line summary."""
        to = f"for {folder}, nothing written" if dry_run else f"in {folder}"
        total = sum(self.completions.values())
        return f"{self.trees} trees {to}: {total} completions, at most {self.pipeline}."


def import_forest(
    files: Sequence[str | Path],
    folder: str | Path,
    spec: ImportSpec | None = None,
    *,
    prompts_file: str | Path | None = None,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    note: Note = lambda _: None,
) -> ImportReport:
    """Write the completions in `files` as a new forest in `folder`; return what was found.

    files: rows (.jsonl, .json, .parquet), `traces.jsonl` of verifiers, or `.eval` logs of inspect.
    spec: by default, the pipeline is the shipped one with the roles of the files. prompts_file:
    templates to rebuild the prompts with, which are not imported. dry_run: grade and write nothing.
    on_progress: called with the number of trees graded, and of all.

    Raises ImportsError or QuestionsError, naming file and line, if a file cannot be imported, and
    ImportsError if `folder` exists, SpecError for a wrong setting. Then nothing is written.
    """
    spec, folder, paths = spec or ImportSpec(), Path(folder), [Path(file) for file in files]
    require_grader(spec.grader)
    if spec.kind is not None:
        (kind_of if is_own(spec.grader) else require_kind)(spec.kind)
    refuse_folder(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ImportsError(
            f"{folder} already exists. Import into a new folder, all files at once: "
            "malt-data import FILE… --out NAME"
        )
    names, left_out = question_names(spec), Counter[str]()
    linked = link(read_files(paths, spec, left_out))
    pipeline = fit_pipeline(linked, spec)
    asked = ask(linked, spec, spec.grader, names, _source(paths))
    trees = _trees(linked, asked, pipeline, left_out)
    build = _build_spec(spec, pipeline, trees, asked, prompts_file)
    require_prompts(build.prompts, build.pipeline, {q.kind for q in asked.loaded.questions})
    report = _report(build, trees, asked, left_out)
    _note(asked, trees, spec, note)
    if dry_run:
        return report
    questions = {q.question_id: q for q in asked.loaded.questions if q.question_id in trees}
    facts = {**asked.loaded.report(), "questions": len(questions)}
    facts |= {"files": [path.name for path in paths], "left_out": report.left_out}
    with (
        Grader(build.grader, timeout_s=build.grader_timeout, note=note) as grader,
        atomic_folder(folder, replace=False) as temporary,
    ):
        build = build.model_copy(update={"grader": grader.name})
        forest = create_forest(temporary, build, [*questions.values()], facts)
        left = iter(sorted(trees.items()))  # by id, as a build grows them
        done = 0
        while some := dict(islice(left, TREES_PER_PART)):
            rows = _graded(some, questions, build, grader)
            forest.parts.write(node_table(rows, forest.manifest.labelled))
            on_progress(done := done + len(some), len(trees))
        forest.parts.compact()
    return report


def _source(paths: Sequence[Path]) -> str:
    """Return the source of questions whose rows name none: the file, or the folder of several."""
    folder = paths[0].resolve().parent.name
    return folder if folder and len(paths) > 1 else paths[0].name


def _trees(
    linked: Linked, asked: Asked, pipeline: Pipeline, left_out: Counter[str]
) -> dict[str, Tree]:
    """Return the complete trees by question; raise ImportsError if there is none."""
    trees: dict[str, Tree] = {}
    for name, roots in asked.trees.items():
        tree = place(linked, roots, len(pipeline.turns))
        if incomplete := size(linked, roots) - len(tree):
            left_out[INCOMPLETE] += incomplete
        if tree:
            trees[name] = tree
    if not trees:
        counts = [*left_out.items(), *asked.loaded.counts().items()]
        reasons = "; ".join(f"{reason} ({count})" for reason, count in counts)
        raise ImportsError(f"No tree can be imported: {reasons or 'the files are empty'}.")
    return trees


def _build_spec(
    spec: ImportSpec,
    pipeline: Pipeline,
    trees: Mapping[str, Tree],
    asked: Asked,
    prompts_file: str | Path | None,
) -> BuildSpec:
    """Return what the manifest says of the trees: their branching is the largest there is."""
    most = widest([*trees.values()], len(pipeline.turns))
    turns = (turn.updated(n=n) for turn, n in zip(pipeline.turns, most, strict=True))
    models = {each.model or spec.model for tree in trees.values() for _, each in tree}
    given = {name: getattr(spec, name) for name in spec.model_fields_set - {"roles", "pipeline"}}
    build = BuildSpec(
        **{
            **given,
            "engine": IMPORTED,
            "model": models.pop() if len(models) == 1 else spec.model,
            "questions": asked.loaded.source,
            "split": asked.loaded.split,
            "max_tokens": spec.max_tokens,
            "pipeline": pipeline.updated(turns=tuple(turns)),
        }
    )
    return resolve_prompts(build, prompts_file)


def _report(
    build: BuildSpec, trees: Mapping[str, Tree], asked: Asked, left_out: Counter[str]
) -> ImportReport:
    roles = [turn.role for turn in build.pipeline.turns]
    counts = Counter(roles[len(path) - 1] for tree in trees.values() for path, _ in tree)
    return ImportReport(
        trees=len(trees),
        completions=dict(counts),
        pipeline=str(build.pipeline),
        left_out=dict(left_out.most_common()),
        refused=asked.loaded.counts(),
        dropped=list(asked.dropped),
    )


def _note(asked: Asked, trees: Mapping[str, Tree], spec: ImportSpec, note: Note) -> None:
    for text in asked.loaded.notes:
        note(text)
    if asked.dropped:
        note(
            "Not kept, since completions of one question differ in them and no column has them: "
            f"{', '.join(map(str, asked.dropped))}."
        )
    if any((each.model or spec.model) is None for tree in trees.values() for _, each in tree):
        note(f"Completions without a model are stored as by {UNKNOWN!r}; --model NAME names it.")


def _graded(
    trees: Mapping[str, Tree], questions: Mapping[str, Question], build: BuildSpec, grader: Grader
) -> list[dict[str, Any]]:
    """Return the graded rows of some trees, without values and labels."""
    leaf = len(build.pipeline.turns)
    rows_of = {name: asdict(questions[name]) for name in trees}
    grades = grader.judge_sync(
        (each.text, rows_of[name]) for name, tree in trees.items() for _, each in tree
    )
    rows = [row for name, tree in trees.items() for row in _rows(name, tree, build)]
    return [
        row | graded.columns(leaf=row["depth"] == leaf)
        for row, graded in zip(rows, grades, strict=True)
    ]


def _rows(question_id: str, tree: Tree, build: BuildSpec) -> Iterator[dict[str, Any]]:
    ids: dict[Place, str] = {(): question_id}
    places = {path: place for place, (path, _) in enumerate(tree)}
    for path, each in tree:
        role = build.pipeline.turns[len(path) - 1].role
        above = path[:-1]
        ids[path] = child_id(ids[above], role, path[-1])
        yield {
            "question_id": question_id,
            "node": places[path],
            "parent": places.get(above),
            "node_id": ids[path],
            "parent_id": ids[above] if above else None,
            "role": role,
            "depth": len(path),
            **{name: getattr(each, name) for name in DETAILS},
            "sample": path[-1],
            "model": each.model or build.model or UNKNOWN,
        }
