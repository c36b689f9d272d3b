"""Each row becomes a question with a canonical, gradable gold, or a refusal with a reason."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malt_data.errors import QuestionsError, SpecError
from malt_data.graders import Grader, extract_answer
from malt_data.prompts.templates import builtin, render
from malt_data.questions.benchmarks import BENCHMARKS
from malt_data.questions.fields import last_box
from malt_data.questions.loading import Loaded, load_questions
from malt_data.schemas.forest import Question, question_table
from malt_data.schemas.ids import question_id
from malt_data.schemas.pipeline import shipped

CSQA = {
    "id": "c-1",
    "question": "Where do boats float?",
    "question_concept": "boats",
    "choices": {"label": ["A", "B", "C", "D", "E"], "text": ["hill", "lake", "oven", "sky", "box"]},
    "answerKey": "B",
}
GOOD = {"question": "What is 1 + 1?", "answer": "2"}


def load(folder: Path, *rows: dict[str, Any], **options: Any) -> Loaded:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_questions(str(path), **options)


def load_one(folder: Path, row: dict[str, Any], **options: Any) -> Question:
    loaded = load(folder, row, **options)
    assert loaded.refused == []
    return loaded.questions[0]


def refusal_reason(folder: Path, row: dict[str, Any], **options: Any) -> str:
    """Return why `row` is refused when it follows a valid one."""
    first = {**GOOD, "choices": ["2", "3"]} if options.get("grader") == "choice" else GOOD
    loaded = load(folder, first, row, **options)
    assert len(loaded.questions) == 1
    assert loaded.refused[0].where.startswith(f"{folder}/rows.jsonl line 2")
    return loaded.refused[0].reason


# --- the shapes of the benchmarks -------------------------------------------------------------


def test_gsm8k_gold_follows_the_last_hashes_and_the_solution_is_kept(
    tmp_path: Path,
) -> None:
    answer = "He has 1000 + 234 = <<1000+234=1234>>1234 shells.\n#### 1,234"
    question = load_one(tmp_path, {"question": "How many shells has he?\n", "answer": answer})
    assert (question.gold, question.kind, question.choices) == ("1234", "numeric", None)
    assert json.loads(question.meta) == {"solution": answer}
    assert question.question == "How many shells has he?"


def test_gsm_symbolic_uses_its_own_answer_not_the_original(tmp_path: Path) -> None:
    row = {
        "id": 7, "instance": 3, "question": "Mia picks 8 and 9 plums. How many?",
        "answer": "8 + 9 = 17\n#### 17", "original_id": 1, "original_question": "Ann picks 1 …",
        "original_answer": "1 + 1 = 2\n#### 2", "canary": "do not train on this",
    }  # fmt: skip
    question = load_one(tmp_path, row)
    assert question.gold == "17"
    assert json.loads(question.meta)["original_answer"].endswith("2")


def test_math_gold_is_the_last_balanced_box_and_level_and_type_are_kept(tmp_path: Path) -> None:
    solution = r"First \boxed{1}. No: $\boxed{\frac{1}{2}}$. Unclosed: \boxed{3"
    row = {"problem": "Halve 1.", "level": "Level 5", "type": "Algebra", "solution": solution}
    question = load_one(tmp_path, row)
    assert question.gold == r"\frac{1}{2}"
    meta = {"level": "Level 5", "type": "Algebra", "solution": solution}
    assert json.loads(question.meta) == meta


def test_math500_prefers_its_answer_and_keeps_the_solution(tmp_path: Path) -> None:
    row = {
        "problem": "Where?", "solution": r"So $\boxed{\left( 3, \frac{\pi}{2} \right)}.$",
        "answer": r"\left( 3, \frac{\pi}{2} \right)", "subject": "Precalculus", "level": 2,
        "unique_id": "test/precalculus/807.json",
    }  # fmt: skip
    question = load_one(tmp_path, row)
    assert (question.gold, question.kind) == (row["answer"], "math")
    assert json.loads(question.meta)["solution"] == row["solution"]


def test_a_gradable_solution_is_used_when_the_answer_is_ungradable(tmp_path: Path) -> None:
    row = {"problem": "Halve 1.", "answer": "a \n b", "solution": r"It is \boxed{0.5}."}
    assert load_one(tmp_path, row).gold == "0.5"


def test_csqa_choices_and_letter(tmp_path: Path) -> None:
    question = load_one(tmp_path, CSQA)
    assert question.choices == ("hill", "lake", "oven", "sky", "box")
    assert (question.gold, question.kind) == ("B", "choice")
    assert json.loads(question.meta) == {"id": "c-1", "question_concept": "boats"}


# --- choices and letters ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "answer", "gold"),
    [
        (["hill", "lake"], "B", "B"),
        (["hill", "lake"], "b", "B"),
        (["hill", "lake"], "(B)", "B"),
        (["hill", "lake"], "lake", "B"),
        (["2", "4", "6"], 4, "B"),
        ({"A": "hill", "B": "lake", "C": None}, "B", "B"),
        ('["hill", "lake"]', "lake", "B"),
        ('{"A": "hill", "B": "lake"}', "B", "B"),
        ({"label": ["1", "2"], "text": ["hill", "lake"]}, "2", "B"),
        ({"label": ["1", "2"], "text": ["2", "1"]}, "2", "B"),
        ([{"label": "A", "text": "hill"}, {"label": "B", "text": "lake"}], "B", "B"),
        (["hill", "hill", "lake"], "C", "C"),
    ],
)
def test_a_gold_becomes_the_letter_of_its_choice(
    tmp_path: Path, choices: object, answer: object, gold: str
) -> None:
    row = {"question": "Which?", "choices": choices, "answer": answer}
    assert load_one(tmp_path, row).gold == gold


@pytest.mark.parametrize(
    ("choices", "answer", "why"),
    [
        (["lake"], "A", "fewer than two choices"),
        ([str(i) for i in range(27)], "3", "more than 26 choices"),
        (["hill", ""], "A", "a choice is empty or no text"),
        (["hill", ["lake"]], "A", "a choice is empty or no text"),
        ("hill or lake", "A", "choices are not a list (nor JSON of one)"),
        (7, "A", "choices are not a list (nor JSON of one)"),
        ({"label": ["A"], "text": ["hill", "lake"]}, "A", "choices and their labels do not match"),
        (["hill", "lake"], "C", "gold is not one of the choices"),
        (["hill", "lake"], 1, "gold is not one of the choices"),
        (["B", "A"], "A", "gold names two choices"),
        (["lake", "lake", "hill"], "A", "another choice has the gold's text"),
    ],
)
def test_choices_with_an_ambiguous_gold_are_refused(
    tmp_path: Path, choices: object, answer: object, why: str
) -> None:
    assert (
        refusal_reason(tmp_path, {"question": "Which?", "choices": choices, "answer": answer})
        == why
    )


@pytest.mark.parametrize("empty", [None, [], ""])
def test_empty_choices_make_a_free_form_question(tmp_path: Path, empty: object) -> None:
    question = load_one(tmp_path, {**GOOD, "choices": empty})
    assert (question.choices, question.kind) == (None, "numeric")


# --- golds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold", "kind"),
    [
        ("1,234", "1234", "numeric"),
        ("$5.00", "5.00", "numeric"),
        ("-3/4", "-3/4", "numeric"),
        (7, "7", "numeric"),
        (7.0, "7", "numeric"),
        (0.25, "0.25", "numeric"),
        (["12"], "12", "numeric"),
        ("$x^2 + 1$", "x^2 + 1", "math"),
        ("2516_8", "2516_8", "math"),
        (True, "True", "math"),
        ("Paris", "Paris", "math"),
    ],
)
def test_golds_are_canonical(tmp_path: Path, answer: object, gold: str, kind: str) -> None:
    question = load_one(tmp_path, {"question": "How much?", "answer": answer})
    assert (question.gold, question.kind) == (gold, kind)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"answer": "2"}, "no question"),
        ({"question": " \n", "answer": "2"}, "no question"),
        ({"question": ["What?"], "answer": "2"}, "question is not text"),
        ({"question": "What?"}, "no gold answer"),
        ({"question": "What?", "answer": "  "}, "no gold answer"),
        ({"question": "What?", "answer": None}, "no gold answer"),
        ({"question": "What?", "answer": math.nan}, "no gold answer"),
        ({"question": "What?", "answer": "so it is\n####"}, "no gold answer"),
        ({"question": "What?", "solution": r"It is $\boxed{}$."}, "no gold answer"),
        ({"question": "What?", "solution": "It is so.\nThus 5."}, "no gold answer"),
        ({"question": "What?", "answer": ["1", "2"]}, "several gold answers"),
        ({"question": "What?", "answer": {"value": 1}}, "gold is neither text nor a number"),
        ({"question": "What?", "answer": "x+" * 300 + "1"}, "gold not gradable"),
        ({"question": "What?", "answer": "1 2\n3 4"}, "gold is prose, which no grader can compare"),
        ({"question": "Say \ud800", "answer": "2"}, "not valid Unicode (lone surrogate)"),
        ({"question": "Say", "answer": "\ud800"}, "not valid Unicode (lone surrogate)"),
    ],
)
def test_rows_without_a_usable_question_or_gold_are_refused(
    tmp_path: Path, row: dict[str, Any], why: str
) -> None:
    assert refusal_reason(tmp_path, row) == why


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"\boxed{1} and \boxed{2}", "2"),
        (r"\boxed{a_{b}^{c}}", "a_{b}^{c}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{1}, then \boxed{2", "1"),
        (r"\boxed 7$", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\\boxed{3}", None),
        ("none", None),
    ],
)
def test_the_last_balanced_box(text: str, box: str | None) -> None:
    assert last_box(text) == box


def test_a_megabyte_of_unclosed_boxes_is_read_in_one_pass() -> None:
    assert last_box(r"\boxed{" * 150_000) is None


# --- forced graders ---------------------------------------------------------------------------


def test_a_forced_grader_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    row = {"question": "Which?", "answer": "x + 1"}
    assert refusal_reason(tmp_path, row, grader="numeric") == "gold is not a number"
    assert refusal_reason(tmp_path, row, grader="choice") == "no choices"
    assert load_one(tmp_path, GOOD, grader="math").kind == "math"


def test_a_forced_numeric_grader_asks_a_choice_question_free_form(tmp_path: Path) -> None:
    row = {"question": "What is 2 + 2?", "choices": ["3", "4"], "answer": "B"}
    free, choice = load_one(tmp_path, row, grader="numeric"), load_one(tmp_path, row)
    assert (free.gold, free.choices, free.kind) == ("4", None, "numeric")
    assert json.loads(free.meta)["choices"] == ["3", "4"]
    assert free.question_id != choice.question_id


def test_a_function_of_ones_own_gets_the_first_gold_if_none_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "g.py").write_text("def grade(text, question):\n    return 1.0\n")
    row = {"question": "Why?", "answer": "because it is " + "so " * 300, "target": "who " * 200}
    question = load_one(tmp_path, row, grader=f"{tmp_path}/g.py:grade", kind="math")
    assert question.gold.startswith("because")


def test_a_rows_own_kind_is_used_only_if_it_fits(tmp_path: Path) -> None:
    assert load_one(tmp_path, {**GOOD, "kind": "math"}).kind == "math"
    assert load_one(tmp_path, {**GOOD, "kind": "choice"}).kind == "numeric"
    assert json.loads(load_one(tmp_path, {**GOOD, "kind": "riddle"}).meta) == {"kind": "riddle"}


def test_an_unknown_grader_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="auto, numeric, choice, math"):
        load(tmp_path, GOOD, grader="exact")


# --- fields, duplicates, limits ---------------------------------------------------------------


def test_fields_map_custom_names(tmp_path: Path) -> None:
    row = {"stem": "Which?", "opts": ["a lake", "a hill"], "right": "B", "answer": "A", "n": 1}
    fields = {"question": "stem", "answer": "right", "choices": "opts"}
    question = load_one(tmp_path, row, fields=fields)
    assert (question.gold, json.loads(question.meta)) == ("B", {"answer": "A", "n": 1})


def test_field_names_are_case_insensitive(tmp_path: Path) -> None:
    assert load_one(tmp_path, {"Problem": "What?", "ID": 3, "Answer": 5}).gold == "5"


def test_an_unknown_key_in_fields_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(QuestionsError, match="unknown key 'gold'"):
        load(tmp_path, GOOD, fields={"gold": "x"})


def test_duplicates_and_conflicting_golds_have_different_reasons(
    tmp_path: Path,
) -> None:
    letter = {"question": "Which?", "choices": ["hill", "lake"], "answer": "A"}
    rows: list[dict[str, Any]] = [
        GOOD,
        {**GOOD, "id": 9},
        {**GOOD, "answer": "3", "id": "x"},
        letter,
        letter,
    ]
    loaded = load(tmp_path, *rows)
    assert [q.gold for q in loaded.questions] == ["2", "A"]
    assert [(r.reason, r.where.rsplit("/", 1)[1]) for r in loaded.refused] == [
        ("duplicate", "rows.jsonl line 2 (9)"),
        ("duplicate with another gold answer", "rows.jsonl line 3 (x)"),
        ("duplicate", "rows.jsonl line 5"),
    ]
    assert loaded.counts() == {"duplicate": 2, "duplicate with another gold answer": 1}


def test_a_limit_draws_by_seed_and_a_larger_one_contains_it(tmp_path: Path) -> None:
    rows = [{"question": f"What is {i}?", "answer": str(i) if i % 9 else ""} for i in range(90)]
    drawn = {
        (limit, seed): [q.gold for q in load(tmp_path, *rows, limit=limit, seed=seed).questions]
        for limit in (5, 20)
        for seed in (0, 1)
    }
    assert drawn[20, 0][:5] == drawn[5, 0] != drawn[5, 1]
    assert {len(drawn[5, 0]), len(drawn[20, 0])} == {5, 20}
    assert drawn[5, 0] != [q.gold for q in load(tmp_path, *rows).questions][:5]
    reordered = load(tmp_path, *rows[::-1], limit=20)  # the order of the source does not matter
    assert [q.gold for q in reordered.questions] == drawn[20, 0]
    expected = sorted(
        (row for row in rows if row["answer"]),
        key=lambda r: hashlib.sha256(f"0:{question_id(r['question'], None)}".encode()).hexdigest(),
    )
    assert drawn[5, 0] == [row["answer"] for row in expected[:5]]


# --- kinds ------------------------------------------------------------------------------------


def test_one_gold_that_is_not_a_number_makes_the_whole_source_math(tmp_path: Path) -> None:
    rows = [{"question": f"What is {i}?", "answer": gold} for i, gold in enumerate(["7", "8"])]
    numbers = load(tmp_path, *rows)
    assert {q.kind for q in numbers.questions} == {"numeric"}
    assert numbers.notes == ("rows.jsonl: asked as numeric, since every gold is a number.",)
    mixed = load(tmp_path, *rows, {"question": "Root of 2?", "answer": r"\sqrt2"})
    assert [q.kind for q in mixed.questions] == ["math"] * 3
    assert r"not every gold is a number (\sqrt2)" in mixed.notes[0]


def test_the_kind_does_not_depend_on_the_limit_or_the_split(tmp_path: Path) -> None:
    rows = [{"question": f"What is {i}?", "answer": str(i), "split": "train"} for i in range(9)]
    last = {"question": "Root of 2?", "answer": r"\sqrt2", "split": "test"}
    for limit in (None, 1, 4):
        loaded = load(tmp_path, *rows, last, split="train", limit=limit)
        assert {q.kind for q in loaded.questions} == {"math"}
    folder = tmp_path / "splits"
    folder.mkdir()
    for split in ("train", "test"):
        lines = [json.dumps(row) for row in (*rows, last) if row["split"] == split]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    assert {q.kind for q in load_questions(str(folder)).questions} == {"math"}
    assert {q.kind for q in load_questions(str(folder), kind="numeric").questions} == {"numeric"}


def test_other_splits_are_not_read_if_no_kind_is_inferred(tmp_path: Path) -> None:
    row = {"question": "Which is it?", "answer": "A", "choices": ["this", "that"]}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    (tmp_path / "train.jsonl").write_text("{")
    loaded = load_questions(str(tmp_path), split="test")
    assert [question.kind for question in loaded.questions] == ["choice"]


def test_benchmarks_declare_their_kind() -> None:
    kinds = {name: benchmark.kind for name, benchmark in BENCHMARKS.items()}
    assert (kinds["math"], kinds["math500"], kinds["csqa"]) == ("math", "math", "choice")
    assert {kinds[name] for name in kinds if name.startswith("gsm")} == {"numeric"}


_golds = st.sampled_from(["7", "12", "1/2", r"\sqrt2", "x+1", "0.5", "2516_8", "(1, 2)"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(golds=st.lists(_golds, min_size=2, max_size=6), data=st.data())
def test_permuting_the_golds_of_a_source_changes_no_prompt_and_no_extracted_answer(
    tmp_path: Path, golds: list[str], data: st.DataObject
) -> None:
    """The kind is never inferred from a question's own gold (contract §1)."""
    completions = ["Final Answer: 7 apples", r"So \boxed{\sqrt2}.", "Final Answer: x+1.", "#### 12"]
    prompts = builtin(), shipped()

    def prompts_and_answers(order: list[str]) -> list[Any]:
        rows = [{"question": f"What is {i}?", "answer": gold} for i, gold in enumerate(order)]
        return [
            (
                render(*prompts, q.kind, q.question, q.choices, ()),
                render(*prompts, q.kind, q.question, q.choices, ("a", "b")),
                [extract_answer(text, q.kind, q.choices) for text in completions],
            )
            for q in load(tmp_path, *rows).questions
        ]

    permuted = data.draw(st.permutations(golds))
    assert prompts_and_answers(golds) == prompts_and_answers(permuted)


# --- clusters ---------------------------------------------------------------------------------


def test_questions_of_one_template_share_their_cluster(tmp_path: Path) -> None:
    symbolic = [
        {"id": i // 2, "instance": i % 2, "original_id": 9, "question": f"{i}?", "answer": "#### 1"}
        for i in range(4)
    ]
    assert [q.cluster for q in load(tmp_path, *symbolic).questions] == ["0", "0", "1", "1"]
    own = load_one(tmp_path, {**GOOD, "cluster": "sums"})
    assert (own.cluster, json.loads(own.meta)) == ("sums", {})
    assert load_one(tmp_path, {**GOOD, "id": 3}).cluster is None


def test_no_usable_question_is_an_error_with_counts_and_fields(
    tmp_path: Path,
) -> None:
    with pytest.raises(QuestionsError, match=r"2 no gold answer.*q, x") as caught:
        load(tmp_path, {"q": "?", "x": 1}, {"q": "!", "x": 2}, fields={"question": "q"})
    assert "line 1" in str(caught.value)
    with pytest.raises(QuestionsError, match="is empty"):
        load(tmp_path)


def test_the_report_counts_everything_and_is_json(tmp_path: Path) -> None:
    report = load(tmp_path, GOOD, *({"question": "?"} for _ in range(300))).report()
    assert report["refused"] == {"no gold answer": 300}
    assert (report["questions"], report["split"], len(report["refused_rows"])) == (1, "train", 200)
    json.dumps(report)


# --- meta and round trips ---------------------------------------------------------------------


def test_meta_is_strict_json_for_any_row(tmp_path: Path) -> None:
    row = {**GOOD, "p": math.inf, "list": [math.nan, {"é": "\ud800"}], "n": None}
    meta = load_one(tmp_path, row).meta
    meta.encode()
    parsed = json.loads(meta, parse_constant=lambda text: pytest.fail(text))
    assert parsed == {"p": None, "list": [None, {"é": "\ud800"}], "n": None}


def test_parquet_bytes_and_decimals_are_accepted(tmp_path: Path) -> None:
    from decimal import Decimal

    rows = [{"question": "How much?", "answer": Decimal("2.50"), "image": b"\xff\xfe"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    question = load_questions(str(tmp_path / "rows.parquet")).questions[0]
    assert (question.gold, json.loads(question.meta)) == ("2.50", {"image": "<2 bytes>"})


def test_a_forests_own_questions_load_as_the_same_questions(tmp_path: Path) -> None:
    math_row = {"problem": "Halve 1.", "level": 3, "solution": r"\boxed{\frac12}", "source": "aime"}
    before = load(tmp_path, GOOD, CSQA, math_row).questions
    assert [q.source for q in before] == ["rows.jsonl", "rows.jsonl", "aime"]
    pq.write_table(question_table(before), tmp_path / "questions.parquet")
    assert load_questions(str(tmp_path / "questions.parquet")).questions == before


_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
_any_golds: st.SearchStrategy[Any] = _values | st.sampled_from(
    ["#### 1,234", r"\boxed{}", r"\boxed{x", "A", "(B)", "50%", "$", "$$", r"\frac", "1/0", "a,b"]
)
_rows = st.fixed_dictionaries(
    {},
    optional={
        "question": _values,
        "problem": st.text(max_size=20),
        "answer": _any_golds,
        "solution": _any_golds,
        "choices": _values | st.lists(st.text(max_size=3) | st.just("A"), max_size=4),
        "kind": st.sampled_from(["math", "numeric", "choice", "?"]),
        "meta": _values,
        "split": st.just("train"),
        "id": _values,
    },
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(_rows, max_size=6), grader=st.sampled_from(["auto", "numeric", "math"]))
def test_every_row_is_a_storable_gradable_question_or_a_refusal(
    tmp_path: Path, rows: list[dict[str, Any]], grader: str
) -> None:
    try:
        loaded = load(tmp_path, *rows, grader=grader)
    except QuestionsError:
        return
    assert len(loaded.questions) + len(loaded.refused) == len(rows)
    assert len({q.question_id for q in loaded.questions}) == len(loaded.questions)
    pq.write_table(question_table(loaded.questions), tmp_path / "stored.parquet")
    with Grader() as judge:
        for question in loaded.questions:
            texts = [f"Final Answer: {question.gold}", f"Final Answer: \\boxed{{{question.gold}}}"]
            kind: Any = question.kind
            answers = [extract_answer(text, kind, question.choices) for text in texts]
            verdicts = [judge.grade(a, question.gold, kind, question.choices) for a in answers]
            assert "right" in verdicts
