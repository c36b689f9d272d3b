"""Verify a forest: recompute everything that is stored, and report every difference.

problems = verify(open_forest("forest"))    # [] if there are none

Where a function of somebody's own graded, it is not run unless the caller names it; what follows
from its rewards is checked all the same.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl

from malt_data.errors import ForestError, GraderError, StorageError
from malt_data.forests.forest import Forest
from malt_data.forests.grading import Golds
from malt_data.forests.labels import assign
from malt_data.graders import Grader, is_own, label_of
from malt_data.schemas.forest import NODES
from malt_data.schemas.ids import question_id

_EXAMPLES = 3
_CLOSE = 1e-9


def verify(
    forest: Forest,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    grader: str | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Return the problems of a forest, one sentence each; an empty list if there are none.

    Checks that every file matches the schema, ids match their content, trees are complete and
    unique, answers and verdicts come out the same when graded again, rewards follow from verdicts,
    values and labels from rewards, and labels match the manifest. Leftovers of killed processes are
    not problems: the next writer removes them. on_progress: called with the number of parts done
    and the total. grader: the function that graded, if it may be run; without it, a note says that
    answers were not graded again. Raises ForestError if another one graded.
    """
    stored = forest.manifest.labels.grader
    if grader is not None and label_of(grader) != stored:
        raise ForestError(
            f"{forest.folder} was graded by {stored}, not {label_of(grader)}. Verify it with that "
            "one, or grade it again: malt-data relabel --grader …"
        )
    if is_own(stored) and grader is None:
        note(
            f"Answers were graded by {stored}, which verify does not run; to grade them again, "
            "pass --grader FILE.py:function."
        )
    problems: list[str] = []
    try:
        with forest.reading():
            for problem in _problems(forest, grader, note, on_progress):
                problems.append(problem)  # one by one, to keep those before an error
    except (ForestError, GraderError, StorageError) as error:
        problems.append(str(error))
    return problems


def _problems(
    forest: Forest,
    named: str | None,
    note: Callable[[str], None],
    on_progress: Callable[[int, int], None],
) -> Iterator[str]:
    paths = forest.parts.paths()  # before the questions, which a build writes first
    questions = forest.questions().collect()
    yield from _questions(forest, questions)
    known = set(questions["question_id"])
    stored = forest.manifest.labels.grader
    part_of: dict[str, str] = {}
    name = named or ("auto" if is_own(stored) else stored)
    with Grader(name, timeout_s=forest.manifest.spec.grader_timeout, note=note) as grader:
        golds = None if is_own(stored) and named is None else Golds(forest, grader)
        for done, path in enumerate(paths, 1):
            try:
                problems = _part(forest, path, known, part_of, golds)
                yield from (f"{path.name}: {problem}" for problem in problems)
            except (ForestError, StorageError) as error:
                yield str(error)
            on_progress(done, len(paths))
    forest.require_labelled()


def _questions(forest: Forest, questions: pl.DataFrame) -> Iterator[str]:
    wrong = [
        row["question_id"]
        for row in questions.iter_rows(named=True)
        if question_id(row["question"], row["choices"]) != row["question_id"]
    ]
    if wrong:
        yield f"questions.parquet: ids do not match their content: {_some(wrong)}."
    if duplicates := questions.filter(pl.col("question_id").is_duplicated())[
        "question_id"
    ].to_list():
        yield f"questions.parquet: duplicate questions: {_some(duplicates)}."


def _part(
    forest: Forest,
    path: Path,
    known: set[str],
    part_of: dict[str, str],
    golds: Golds | None,
) -> Iterator[str]:
    table = forest.parts.read(path)
    if table.schema.names[: len(NODES.names)] != NODES.names:
        yield "its columns differ from the schema's."
        return
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    frame = frame.with_columns(pl.col("role").cast(pl.String))
    trees = frame["question_id"].unique().to_list()
    if duplicates := [tree for tree in trees if tree in part_of]:
        yield f"trees that are also in {part_of[duplicates[0]]}: {_some(duplicates)}."
    part_of.update(dict.fromkeys(trees, path.name))
    if unknown := [tree for tree in trees if tree not in known]:
        yield f"trees of unknown questions: {_some(unknown)}."
        frame = frame.filter(~pl.col("question_id").is_in(unknown))
    yield from _shape(forest, frame)
    yield from _labels(forest, frame)
    yield from _grades(frame, golds)


def _shape(forest: Forest, frame: pl.DataFrame) -> Iterator[str]:
    """Check that trees have the manifest's branching and ids match the nodes' positions.

    The trees of an import may have fewer nodes; `_labels` finds a node without children.
    """
    pipeline, imported = forest.manifest.spec.chain, forest.manifest.spec.imported
    depths = frame.group_by("question_id").agg(
        *[
            ((pl.col("depth") == depth) & ~pl.col("extra")).sum().alias(f"turn_{depth}")
            for depth in range(1, len(pipeline.turns) + 1)
        ],
        unique=pl.col("node_id").n_unique() == pl.len(),
        numbered=pl.col("node").sort() == pl.int_range(pl.len()),
    )
    complete = pl.col("unique") & pl.col("numbered").list.all()
    if adaptive := forest.manifest.spec.adaptive:
        yield from _extras(frame, pipeline.branching, adaptive.most)
    for depth, width in enumerate(pipeline.widths, 1):
        nodes = pl.col(f"turn_{depth}")
        if imported:
            complete &= nodes.is_between(1, width)
        else:
            complete &= nodes >= width if adaptive else nodes == width
    if incomplete := depths.filter(~complete)["question_id"].to_list():
        count = pipeline.nodes_per_tree
        which = f"trees without {'at least' if adaptive else 'exactly'} {count} numbered nodes"
        if imported:
            which = f"trees with an empty turn, more than {count} nodes or wrong numbers"
        yield f"{which}: {_some(incomplete)}."
    roles = {depth: turn.role for depth, turn in enumerate(pipeline.turns, 1)}
    initials = {depth: role[0] for depth, role in roles.items()}
    above = frame.select("question_id", parent="node", above="node_id", above_depth="depth")
    placed = frame.join(
        above.unique(["question_id", "parent"]), on=["question_id", "parent"], how="left"
    ).with_columns(
        initial=pl.col("depth").replace_strict(initials, default=None, return_dtype=pl.String),
        named=pl.col("depth").replace_strict(roles, default=None, return_dtype=pl.String),
    )
    under = pl.coalesce("above", "question_id")
    wrong = placed.filter(
        pl.format("{}/{}{}", under, "initial", "sample").ne_missing(pl.col("node_id"))
        | pl.col("above").ne_missing(pl.col("parent_id"))
        | (pl.col("above_depth").fill_null(0) + 1).ne_missing(pl.col("depth"))
        | (pl.col("parent") >= pl.col("node")).fill_null(False)
        | pl.col("named").ne_missing(pl.col("role"))
    )
    if wrong.height:
        yield f"ids, parents, samples or roles that disagree: {_some(wrong['node_id'].to_list())}."


def _extras(frame: pl.DataFrame, branching: Sequence[int], most: int) -> Iterator[str]:
    """Check that extras are marked, are numbered after a parent's base children, and are few."""
    n = pl.col("depth").replace_strict(
        dict(enumerate(branching, 1)), default=None, return_dtype=pl.Int32
    )
    unmarked = frame.filter(pl.col("extra").ne_missing(pl.col("sample") >= n))
    if unmarked.height:
        names = _some(unmarked["node_id"].to_list())
        yield f"nodes whose mark 'extra' disagrees with their sample index: {names}."
    parents = frame.group_by("question_id", "parent", n=n).agg(
        above=pl.coalesce(pl.col("parent_id").first(), pl.col("question_id").first()),
        children=pl.len(),
        numbered=(pl.col("sample").sort() == pl.int_range(pl.len())).all(),
    )
    fits = (pl.col("children") >= pl.col("n")) & (pl.col("children") <= pl.col("n") + most)
    if wrong := parents.filter(~(fits & pl.col("numbered")).fill_null(False))["above"].to_list():
        yield f"parents with missing children or more than {most} extra ones: {_some(wrong)}."


def _grades(frame: pl.DataFrame, golds: Golds | None) -> Iterator[str]:
    """Extract and grade every answer again, unless there is nothing to grade with.

    A timeout, then or now, depends on the machine and is not a problem.
    """
    verdict = pl.col("verdict")
    correct = pl.when(verdict != "timeout").then(verdict == "right")
    if inconsistent := frame.filter(correct.ne_missing(pl.col("correct")))["node_id"].to_list():
        yield f"'correct' and 'verdict' contradict each other: {_some(inconsistent)}."
    if golds is None:
        return
    regraded = golds.grade(frame)
    undecided = (frame["verdict"] == "timeout") | (regraded["verdict"] == "timeout")
    same = frame["answer"].eq_missing(regraded["answer"])
    same_grade = (frame["verdict"] == regraded["verdict"]) & (
        (frame["reward"] - regraded["reward"]).abs().fill_null(0) < _CLOSE
    )
    same &= undecided | same_grade
    if wrong := frame.filter(~same)["node_id"].to_list():
        yield f"answers, verdicts or rewards that differ when graded again: {_some(wrong)}."


def _labels(forest: Forest, frame: pl.DataFrame) -> Iterator[str]:
    """Check rewards against verdicts, and values, labels and leaf counts against rewards."""
    leaf = pl.col("depth") == len(forest.manifest.spec.pipeline.turns)
    reward, verdict = pl.col("reward"), pl.col("verdict")
    follows = (
        pl.when(~leaf)
        .then(reward.is_null())
        .when(verdict == "right")
        .then(reward == 1)
        .when(verdict == "timeout")
        .then(reward == 0)
        .otherwise((reward >= 0) & (reward < 1))  # part of it: `_grades` compares
    )
    if wrong_rewards := frame.filter(~follows.fill_null(False))["node_id"].to_list():
        yield f"rewards that do not follow from the verdict: {_some(wrong_rewards)}."
        return
    labels = forest.manifest.labels
    try:
        recomputed = assign(frame, labels.threshold, labels.pooling)
    except ForestError as error:
        yield str(error)
        return
    stored = frame.select("node_id", old_value="value", old_label="label", old_leaves="leaves")
    both = recomputed.join(stored, on="node_id", how="left")
    wrong = both.filter(
        ((pl.col("value") - pl.col("old_value")).abs() > 1e-9)
        | pl.col("label").ne_missing(pl.col("old_label"))
        | pl.col("leaves").ne_missing(pl.col("old_leaves"))
    )
    if wrong.height:
        names = _some(wrong["node_id"].to_list())
        yield f"values, labels or leaf counts that differ when recomputed: {names}."


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
    return ", ".join(sorted(set(names))[:_EXAMPLES]) + more
