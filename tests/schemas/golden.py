"""What the released formats hold, frozen: how the golden files are made, and what they are.

    forest_1/, forest_2/        a stored forest of each version; forest_2 is a build by this file
    eval_1/                     a stored evaluation, sampled by this file
    forest_2.json, export_1.json, eval_1.json    the columns of each format
    golden/exports.json         what every export of the two forests reports
    golden/exports.jsonl.gz     the rows of those exports, in their order
    golden/forests.json         what every view says of the two forests
    golden/relabel.json         the flips and labels of a relabelled forest_2
    golden/results.json         what every view and table says of eval_1

All but forest_1 and forest_2.json are written anew by

    PYTHONPATH=tests python tests/schemas/golden.py

That is allowed for a format that no release has written yet, and where a golden file gains
something that is new (another export format, another view). What a released version wrote never
changes: where a test fails for such a file, the code is wrong, or the format needs a new version
and golden files of its own beside these. Where the default prompts are to change, let `build` and
`play` go on with the old ones, by `prompts` in their settings.
"""

import contextlib
import gzip
import hashlib
import json
import random
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from openai_server import OpenAIServer, Reply
from synthetic import ALL, ROLES

from malt_data.builders.build import build_forest
from malt_data.evaluation.evaluate import evaluate
from malt_data.evaluation.plan import plan_evaluation
from malt_data.evaluation.results import Results, open_results
from malt_data.evaluation.settings import find_settings
from malt_data.evaluation.tables import accuracy_table, compare, overview
from malt_data.exporters.export import export
from malt_data.exporters.selection import Selection
from malt_data.forests.facts import stats
from malt_data.forests.forest import Forest, open_forest
from malt_data.forests.relabel import relabel
from malt_data.report.tables import markdown, markdown_overview
from malt_data.schemas.evaluation import COMPLETIONS, PREDICTIONS
from malt_data.schemas.exports import FORMATS, default_configs, recipe_configs
from malt_data.schemas.spec import BuildSpec, EvalSpec, Labels
from malt_data.storage.parquet import write_table

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
FORESTS = ("forest_1", "forest_2")
EVALUATION = "eval_1"

SELECTIONS = {
    "default": Selection(),
    "chosen": Selection(
        strategy="best_worst",
        margin=0.3,
        positives="paired",
        max_per_question=4,
        keep_truncated=True,
        keep_ungraded=True,
        drop_duplicates=True,
        validation=0.4,
        seed=3,
    ),
}
LABELS = Labels(threshold=0.7, pooling="local")
SETTINGS = ["sa", "ma", "sa+mv", "ma+mv", "gv", "debate", "star-ma", "malt+mv"]
TEAM = {
    "team": {"generator": "g-dpo", "verifier": "v-dpo", "refiner": "r-dpo"},
    "sft": {"generator": "g-sft", "verifier": "v-sft", "refiner": "r-sft"},
}
SEEDS = 2
AGAINST = "ma+mv"

QUESTIONS: list[dict[str, Any]] = [
    {"question": "What is 3 plus 5?", "answer": "8", "kind": "numeric", "cluster": "sums"},
    {"question": "What is 40 plus 2?", "answer": "#### 42", "kind": "numeric", "cluster": "sums"},
    {"question": "How much is 1,000 plus 234.5?", "answer": "1,234.50", "kind": "numeric"},
    {"question": "What is a half of a quarter?", "answer": "\\frac{1}{8}", "kind": "math"},
    {"question": "Which one barks?", "answer": "B", "choices": ["a cat", "a dog", "a cow"]},
    {"question": "Wo steht „größer“?", "answer": "ja", "choices": ["nein", "ja"], "level": 2},
]
_ANSWERS = {
    "barks": ("(B)", "B: a dog", "A", "a cow"),
    "größer": ("B", "b)", "A", "ja"),
    "quarter": ("1/8", "0.125", "\\boxed{\\frac18}", "1/4", "2^{-3}"),
}


def answer(messages: list[dict[str, str]], seed: int | None, sample: int) -> Reply:
    """Answer by the chat, the seed and the sample alone: right, wrong, unanswered or cut off."""
    source = random.Random(json.dumps([messages, seed, sample]))
    asked = messages[-1]["content"]
    if "Is the initial answer correct?" in asked:
        judgements = ["Yes, this is right.", "No, that is not right.", "I cannot tell.", ""]
        if source.random() < 0.6:
            return Reply(source.choice(judgements))
    if source.random() < 0.1:
        return Reply("Let me see. First", finish_reason="length")
    return Reply(f"We think.\nFinal Answer: {source.choice(_candidates(messages[0]['content']))}")


def _candidates(asked: str) -> tuple[str, ...]:
    for word, answers in _ANSWERS.items():
        if word in asked:
            return answers
    found = re.search(r"([\d,]+) plus ([\d.]+)", asked)
    assert found
    total = float(found[1].replace(",", "")) + float(found[2])
    return f"{total:g}", f"${total:.2f}", f"{total + 1:g}"


# --- columns --------------------------------------------------------------------------------------


def columns(schema: pa.Schema) -> list[list[object]]:
    """Return name, type, nullability and documentation of each column."""
    return [
        [field.name, str(field.type), field.nullable, field.metadata[b"doc"].decode()]
        for field in schema
    ]


def export_columns() -> dict[str, Any]:
    """Return the columns of every export format, and which exports there are."""
    return {
        "formats": {name: columns(pa.schema(form.columns)) for name, form in FORMATS.items()},
        "all": [config.name for config in ALL],
        "default": [config.name for config in default_configs(ROLES)],
        "recipe": [config.name for config in recipe_configs(ROLES)],
        "ids": {config.name: config.ids for config in ALL},
    }


def evaluation_columns() -> dict[str, Any]:
    """Return the columns of the two tables of an evaluation."""
    return {"completions": columns(COMPLETIONS), "predictions": columns(PREDICTIONS)}


# --- a forest -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the settings that ask the scripted server about QUESTIONS, from within `folder`.

    The questions are named by a relative path: what is stored says nothing of this machine.
    """
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in QUESTIONS)
    (folder / "questions.jsonl").write_text("".join(lines), "utf-8")
    server = OpenAIServer(answer, models=("m", *(n for s in TEAM.values() for n in s.values())))
    with contextlib.chdir(folder), server:
        yield {
            "questions": "questions.jsonl",
            "engine": "openai",
            "model": "m",
            "base_url": server.base_url,
        }


def build(folder: Path) -> Forest:
    """Grow a tree for each of QUESTIONS in `folder`/forest, with a few leaves left undecided."""
    with _served(folder) as asked:
        spec = BuildSpec(**asked, n=2, n_by_role={"refiner": 3}, seed=7)
        report = build_forest(spec, Path("forest"))
    assert not report.failed
    assert not report.refused
    forest = open_forest(folder / "forest")
    _undecide(forest)
    return forest


def _undecide(forest: Forest) -> None:
    """Make some wrong leaves what they were had the grader run out of time: no value changes."""
    for path in forest.parts.paths():
        table = forest.parts.read(path)
        frame = pl.DataFrame(table)
        leaf = pl.col("node_id").str.contains("/(g0/v0|g1/v1)/r2$")
        hit = leaf & (pl.col("verdict") == "wrong")
        frame = frame.with_columns(
            verdict=pl.when(hit).then(pl.lit("timeout")).otherwise("verdict"),
            correct=pl.when(~hit).then("correct"),
        )
        write_table(path, frame.to_arrow().cast(table.schema))


def nodes(forest: Forest) -> list[dict[str, Any]]:
    """Return the nodes in the order of their ids, without their latency."""
    rows: list[dict[str, Any]] = forest.nodes().drop("latency").sort("node_id").collect().to_dicts()
    return rows


def forest_views(folder: Path) -> dict[str, Any]:
    """Return what every view says of copies of the stored forests in `folder`."""
    return {
        name: _views(copied(name, folder)) | {"stats": _stats(open_forest(folder / name))}
        for name in FORESTS
    }


def _stats(forest: Forest) -> dict[str, Any]:
    """Return the statistics, without those that a fit on this machine may change."""
    facts = stats(forest)
    for row in facts["roles"]:
        del row["mean_confidence"], row["share_unsure"]
    return facts


def _views(source: Forest | Results) -> dict[str, Any]:
    # `marked` is the table of nodes, which other golden files hold, and one column.
    names = [view.rpartition("/")[2] for view in source.views if view != "marked"]
    frames = {name: source.sql(f"FROM {name} ORDER BY ALL") for name in names}
    return {name: {"columns": f.columns, "rows": f.rows()} for name, f in frames.items()}


def relabelled(folder: Path) -> dict[str, Any]:
    """Relabel a copy of forest_2 in `folder`; return its flips, and labels by node."""
    forest = copied("forest_2", folder)
    flips = relabel(forest, LABELS)
    labels = nodes(open_forest(forest.folder))
    return {
        "flips": flips,
        "labels": {n["node_id"]: [n["value"], n["label"], n["leaves"]] for n in labels},
    }


def copied(name: str, folder: Path) -> Forest:
    """Open a copy of a stored forest."""
    shutil.copytree(HERE / name, folder / name)
    return open_forest(folder / name)


# --- exports --------------------------------------------------------------------------------------


def exports(folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """Export every config of every stored forest under each of SELECTIONS into `folder`.

    Return (facts, rows). facts: by export what its export.json says, without what is the same for
    all of a forest, and the digest of each shard. rows: [export, split, row] in the order written.
    """
    facts: dict[str, Any] = {"pyarrow": pa.__version__, "sampling": {}, "exports": {}}
    rows: list[Any] = []
    for name in FORESTS:
        forest = copied(name, folder / "forests")
        for chosen, selection in SELECTIONS.items():
            for config in ALL:
                place = f"{name}/{chosen}/{config.name}"
                out = folder / name / chosen / config.name
                export(forest, config, selection, out)
                report = json.loads((out / "export.json").read_text("utf-8"))
                sampling = report.pop("sampling")
                assert facts["sampling"].setdefault(name, sampling) == sampling
                shards = sorted(out.glob("*.parquet"))
                digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in shards}
                facts["exports"][place] = {"report": report, "shards": digests}
                for path in shards:
                    split = path.name.partition("-")[0]
                    rows += [[place, split, row] for row in pq.read_table(path).to_pylist()]
    return facts, rows


def read_rows() -> list[Any]:
    """Return the golden rows of all exports."""
    with gzip.open(GOLDEN / "exports.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _write_rows(rows: list[Any]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (GOLDEN / "exports.jsonl.gz").write_bytes(gzip.compress(lines.encode(), 9, mtime=0))


# --- an evaluation --------------------------------------------------------------------------------


def play(folder: Path) -> Path:
    """Evaluate SETTINGS on QUESTIONS with the scripted server; return the folder of the results."""
    own = folder / "own.toml"
    own.write_text('[gv]\nturns = ["generator", "verifier"]\nvotes = 2\n')
    with _served(folder) as asked:
        planned = plan_evaluation(
            EvalSpec(**asked), find_settings(SETTINGS, own), TEAM, Path("results"), seeds=SEEDS
        )
        report = evaluate(planned)
    assert report["failed"] == {}
    return folder / "results"


def completions(results: Results) -> list[dict[str, Any]]:
    """Return the completions in the order of their places, without their latency."""
    found = pl.DataFrame(results.tables()["completions"].to_table()).drop("latency")
    return found.sort("setting", "seed", "question_id", "pass", "turn").to_dicts()


def views(results: Results) -> dict[str, Any]:
    """Return what every view and every table says of `results`."""
    predictions = results.predictions()
    pairs = [(a, b) for a in results.settings for b in results.settings if a != b]
    found = {
        "views": _views(results),
        "table": accuracy_table(results),
        "against": accuracy_table(results, AGAINST),
        "compare": {f"{a} {b}": compare(predictions, a, b) for a, b in pairs},
        "markdown": markdown(accuracy_table(results, AGAINST)).splitlines(),
        "overview": markdown_overview(overview([results])).splitlines(),
    }
    return dict(json.loads(json.dumps(found).replace(str(results.folder), "results")))


# --- writing them anew ----------------------------------------------------------------------------


def dump(path: Path, content: object) -> None:
    """Write JSON with a line for each row, so that a difference shows where it is."""
    path.write_text(_lines(content, "") + "\n", "utf-8")


def _lines(content: object, margin: str) -> str:
    short = json.dumps(content, ensure_ascii=False)
    if len(margin + short) <= 100 or not isinstance(content, dict | list):
        return short
    inner = margin + " "
    if isinstance(content, list):
        return "[\n" + ",\n".join(inner + _lines(one, inner) for one in content) + f"\n{margin}]"
    members = (f"{inner}{json.dumps(k)}: {_lines(v, inner)}" for k, v in content.items())
    return "{\n" + ",\n".join(members) + f"\n{margin}}}"


def _store(made: Path, name: str, manifest: str) -> None:
    """Keep a folder, without what it says of the machine that made it."""
    path = made / manifest
    facts = json.loads(path.read_text("utf-8"))
    facts["spec"].pop("base_url", None)
    for one in (facts.get("provenance"), *facts["runs"]):
        if one and "platform" in one:
            one["platform"] = "Linux"
    path.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
    shutil.rmtree(HERE / name, ignore_errors=True)
    shutil.copytree(made, HERE / name, ignore=shutil.ignore_patterns(".*"))


def main() -> None:
    """Write the golden files anew; see the module for when that is allowed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _store(build(folder).folder, "forest_2", "forest.json")
        _store(play(folder), EVALUATION, "eval.json")
        GOLDEN.mkdir(exist_ok=True)
        dump(HERE / "export_1.json", export_columns())
        dump(HERE / "eval_1.json", evaluation_columns())
        dump(GOLDEN / "forests.json", forest_views(folder / "forests"))
        facts, rows = exports(folder / "exports")
        dump(GOLDEN / "exports.json", facts)
        _write_rows(rows)
        dump(GOLDEN / "relabel.json", relabelled(folder / "relabel"))
        dump(GOLDEN / "results.json", views(open_results(HERE / EVALUATION)))


if __name__ == "__main__":
    main()
