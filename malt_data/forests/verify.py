"""Is this forest what it says it is? Every check recomputes, none trusts a stored number.

problems = verify(open_forest("forest"))    # [] when all is well
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from malt_data.errors import ForestError, StorageError
from malt_data.forests.forest import Forest
from malt_data.forests.grading import Golds
from malt_data.forests.labels import assign
from malt_data.graders import Grader
from malt_data.schemas.forest import NODES, QUESTIONS
from malt_data.schemas.ids import question_id

_EXAMPLES = 3


def verify(
    forest: Forest, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """Return what is wrong, a sentence each; an empty list where nothing is.

    Checked: schema of every file, ids against content, whole trees of the manifest's branching,
    no tree twice, every answer extracted and graded again, rewards against verdicts, values and
    labels recomputed, labels against the manifest. What killed processes left is no problem: the
    next writer removes it. on_progress: called with the parts done and the parts there are.
    """
    problems: list[str] = []
    try:
        with forest.reading():
            for problem in _problems(forest, on_progress):  # those before an error are kept
                problems.append(problem)
    except (ForestError, StorageError) as error:
        problems.append(str(error))
    return problems


def _problems(forest: Forest, on_progress: Callable[[int, int], None]) -> Iterator[str]:
    paths = forest.parts.paths()  # before the questions: a build writes those first
    questions = forest.questions().collect()
    yield from _questions(forest, questions)
    known = set(questions["question_id"])
    golds = Golds(forest, forest.manifest.labels.grader)
    owner: dict[str, str] = {}
    with Grader() as grader:
        for done, path in enumerate(paths, 1):
            try:
                found = _part(forest, path, known, owner, golds, grader)
                yield from (f"{path.name}: {problem}" for problem in found)
            except (ForestError, StorageError) as error:
                yield str(error)
            on_progress(done, len(paths))
    forest.require_labelled()


def _questions(forest: Forest, questions: pl.DataFrame) -> Iterator[str]:
    if forest.questions_dataset().schema.names != QUESTIONS.names:
        yield "questions.parquet: its columns differ from the schema's."
    wrong = [
        row["question_id"]
        for row in questions.iter_rows(named=True)
        if question_id(row["question"], row["choices"]) != row["question_id"]
    ]
    if wrong:
        yield f"questions.parquet: ids do not match their content: {_some(wrong)}."
    if double := questions.filter(pl.col("question_id").is_duplicated())["question_id"].to_list():
        yield f"questions.parquet: questions stand twice: {_some(double)}."


def _part(
    forest: Forest,
    path: Path,
    known: set[str],
    owner: dict[str, str],
    golds: Golds,
    grader: Grader,
) -> Iterator[str]:
    table = forest.parts.read(path)
    if table.schema.names[: len(NODES.names)] != NODES.names:
        yield "its columns differ from the schema's."
        return
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    frame = frame.with_columns(pl.col("role").cast(pl.String))
    trees = frame["question_id"].unique().to_list()
    if twice := [tree for tree in trees if tree in owner]:
        yield f"trees that stand in {owner[twice[0]]} too: {_some(twice)}."
    owner.update(dict.fromkeys(trees, path.name))
    if unknown := [tree for tree in trees if tree not in known]:
        yield f"trees of unknown questions: {_some(unknown)}."
        frame = frame.filter(~pl.col("question_id").is_in(unknown))
    yield from _shape(forest, frame)
    yield from _labels(forest, frame)
    yield from _grades(frame, golds, grader)


def _shape(forest: Forest, frame: pl.DataFrame) -> Iterator[str]:
    """Whole trees of the manifest's branching, every id spelling out its place."""
    branching = forest.manifest.spec.branching
    expected = [branching[0], branching[0] * branching[1]]
    expected.append(expected[1] * branching[2])
    depths = frame.group_by("question_id").agg(
        *[(pl.col("depth") == d + 1).sum().alias(f"d{d}") for d in range(3)],
        unique=pl.col("node_id").n_unique(),
    )
    whole = pl.col("unique") == sum(expected)
    for d in range(3):
        whole &= pl.col(f"d{d}") == expected[d]
    if broken := depths.filter(~whole)["question_id"].to_list():
        yield f"trees without exactly {sum(expected)} nodes: {_some(broken)}."
    generator = pl.format("{}/g{}", "question_id", "g")
    verifier = pl.format("{}/v{}", generator, "v")
    refiner = pl.format("{}/r{}", verifier, "r")
    depth = pl.col("depth")
    places = frame.with_columns(
        id=pl.when(depth == 1).then(generator).when(depth == 2).then(verifier).otherwise(refiner),
        parent=pl.when(depth == 2).then(generator).when(depth == 3).then(verifier),
        last=pl.when(depth == 1).then("g").when(depth == 2).then("v").otherwise("r"),
        named=depth.replace_strict({1: "generator", 2: "verifier", 3: "refiner"}, default=None),
    )
    wrong = places.filter(
        pl.col("id").ne_missing(pl.col("node_id"))
        | pl.col("parent").ne_missing(pl.col("parent_id"))
        | pl.col("last").ne_missing(pl.col("sample"))
        | pl.col("named").ne_missing(pl.col("role"))
    )
    if wrong.height:
        yield f"ids, parents, samples or roles that disagree: {_some(wrong['node_id'].to_list())}."


def _grades(frame: pl.DataFrame, golds: Golds, grader: Grader) -> Iterator[str]:
    """Every answer extracted and graded again.

    A time-out, then or now, depends on the machine and contradicts nothing.
    """
    verdict = pl.col("verdict")
    correct = pl.when(verdict != "timeout").then(verdict == "right")
    if odd := frame.filter(correct.ne_missing(pl.col("correct")))["node_id"].to_list():
        yield f"'correct' and 'verdict' contradict each other: {_some(odd)}."
    fresh = golds.grade(frame, grader)
    undecided = (frame["verdict"] == "timeout") | (fresh["verdict"] == "timeout")
    same = frame["answer"].eq_missing(fresh["answer"])
    same &= undecided | (frame["verdict"] == fresh["verdict"])
    if wrong := frame.filter(~same)["node_id"].to_list():
        yield f"answers or verdicts that come out differently when graded again: {_some(wrong)}."


def _labels(forest: Forest, frame: pl.DataFrame) -> Iterator[str]:
    """Rewards follow from verdicts; values, labels and leaf counts from rewards."""
    leaf = pl.col("depth") == 3
    reward = pl.when(leaf).then((pl.col("verdict") == "right").cast(pl.Float64))
    if bad := frame.filter(reward.ne_missing(pl.col("reward")))["node_id"].to_list():
        yield f"rewards that do not follow from the verdict: {_some(bad)}."
        return
    labels = forest.manifest.labels
    try:
        fresh = assign(frame, labels.threshold, labels.pooling)
    except ForestError as error:
        yield str(error)
        return
    stored = frame.select("node_id", old_value="value", old_label="label", old_leaves="leaves")
    both = fresh.join(stored, on="node_id", how="left")
    wrong = both.filter(
        ((pl.col("value") - pl.col("old_value")).abs() > 1e-9)
        | pl.col("label").ne_missing(pl.col("old_label"))
        | pl.col("leaves").ne_missing(pl.col("old_leaves"))
    )
    if wrong.height:
        names = _some(wrong["node_id"].to_list())
        yield f"values, labels or leaf counts that recompute differently: {names}."


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
    return ", ".join(sorted(set(names))[:_EXAMPLES]) + more
