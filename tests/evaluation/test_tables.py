"""Tables: clusters, corrections, several teams, several folders; through the command."""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from evaluation.harness import answer, write_questions
from openai_server import OpenAIServer

from malt_data import open_results
from malt_data.cli import main
from malt_data.evaluation.statistics import holm, interval, paired_test
from malt_data.evaluation.tables import accuracy_table
from malt_data.report.tables import markdown


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    def differing(messages: list[dict[str, str]], seed: int | None, sample: int) -> str:
        return answer([{"content": f"{len(served.requests)}{messages[-1]['content']}"}], seed, 0)

    with OpenAIServer(differing, models=()) as served:
        yield served


def share(predictions: pl.DataFrame) -> float:
    """Return the share of right answers."""
    return float(predictions.select(pl.mean("correct")).item())


def call(server: OpenAIServer, *words: object, code: int = 0) -> tuple[Any, str]:
    engine = ["--engine", "openai", "--base-url", server.base_url]
    run = CliRunner().invoke(main, ["eval", *engine, *map(str, words), "--json"])
    assert run.exit_code == code, run.output
    return (json.loads(run.stdout) if run.stdout else None), run.stderr


def write_team(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    for role in ("generator", "verifier", "refiner"):
        (folder / name / role).mkdir()
        weights = folder / name / role / "adapter_model.safetensors"
        weights.write_text(f"{name} {role}")
        (folder / name / role / "questions.txt").write_text("0\n")
    path = folder / name / "team.toml"
    path.write_text('model = "m"\n[adapters]\ngenerator = "generator"\nverifier = "verifier"\n'
                    'refiner = "refiner"\n')  # fmt: skip
    return path


def test_questions_of_one_template_are_one_cluster(server: OpenAIServer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call(server, "--model", "m", "--questions", write_questions(tmp_path / "q.jsonl"), "--split",
         "train", "--settings", "sa,ma,sa+mv", "--seeds", 3, "--out", out)  # fmt: skip
    asked = pq.read_table(out / "questions.parquet")
    templates = pa.array([*(f"t{i % 4}" for i in range(11)), None])  # the last stands alone
    place = asked.column_names.index("cluster")
    named = asked.set_column(place, asked.schema.field("cluster"), templates)
    pq.write_table(named, out / "questions.parquet")
    predictions = open_results(out).predictions()
    assert set(predictions["cluster"]) == {"t0", "t1", "t2", "t3", asked["question_id"][11].as_py()}
    rows = accuracy_table(open_results(out), "sa")
    for row in rows:
        mine = predictions.filter(setting=row["setting"])
        cells = mine.group_by("cluster").agg(pl.sum("correct"), n=pl.len())
        assert (row["clusters"], row["questions"]) == (cells.height, 12) == (5, 12)
        low, high = interval(cells["correct"].to_numpy(), cells["n"].to_numpy())
        assert (row["low"], row["high"]) == pytest.approx((low, high))
        means = [share(mine.filter(seed=seed)) for seed in range(3)]
        assert row["std"] == pytest.approx(statistics.stdev(means))
        assert row["std_population"] == pytest.approx(statistics.pstdev(means))
        if row["setting"] != "sa":
            both = predictions.filter(setting="sa").join(mine, on=["seed", "question_id"])
            sums = both.group_by("cluster").agg(
                d=(pl.col("correct").cast(int) - pl.col("correct_right").cast(int)).sum()
            )
            assert row["p"] == paired_test(sums["d"].to_numpy(), cells["n"].to_numpy())
    assert [row["p_holm"] for row in rows[1:]] == holm([row["p"] for row in rows[1:]])
    (readable, *_) = [line for line in markdown(rows).splitlines() if "Holm" in line]
    assert f"{rows[1]['p_holm']:.4f}" in readable


def test_several_teams_are_sampling_units_and_resume(
    server: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_questions(Path("q.jsonl"))
    teams = [word for name in "abc" for word in ("--team", write_team(Path(), name))]
    words = ["--questions", "q.jsonl", "--split", "train", "--seeds", 2, "--out", "out"]
    facts, _ = call(server, *words, "--settings", "sa,malt,malt+mv", "--against", "malt", *teams)
    assert sorted(path.name for path in Path("out").iterdir()) == ["a", "b", "c"]
    assert facts["units"] == 24 * (3 + 2 + 2)  # sa rests on no team: it is asked once
    rows = {row["setting"]: row for row in facts["settings"]}
    frames = {n: open_results(Path("out") / n).predictions().filter(setting="malt") for n in "abc"}
    means = {f"out/{name}": share(frame) for name, frame in frames.items()}
    assert rows["malt"]["team_means"] == pytest.approx(means)
    assert rows["malt"]["mean"] == pytest.approx(statistics.mean(means.values()))
    assert rows["malt"]["variance_teams"] == pytest.approx(statistics.variance(means.values()))
    cells = [f.group_by("question_id").agg(pl.sum("correct")).sort("question_id")["correct"]
             for f in frames.values()]  # fmt: skip
    ends = interval([cell.to_numpy() for cell in cells], [[2] * 12] * 3)
    assert (rows["malt"]["low"], rows["malt"]["high"]) == pytest.approx(ends)
    seeds = [[share(f.filter(seed=seed)) for seed in (0, 1)] for f in frames.values()]
    within = statistics.mean(statistics.variance(one) for one in seeds) ** 0.5
    assert rows["malt"]["std"] == pytest.approx(within)
    assert rows["sa"]["teams"] == 1
    assert rows["sa"]["behind"] == pytest.approx(rows["malt"]["mean"] - rows["sa"]["mean"])
    asked = len(server.requests)
    again, _ = call(server, *words, "--settings", "sa,malt,malt+mv", "--against", "malt", *teams)
    assert (again["played"], again["settings"]) == (0, facts["settings"])
    assert not [r for r in server.requests[asked:] if "messages" in r.body]

    (row,) = call(server, "--table", "out/a", "out/b", "out/c")[0]
    assert (row["model"], row["benchmark"]) == ("m", "q.jsonl train")
    assert row["settings"]["malt"]["mean"] == rows["malt"]["mean"]
    assert row["settings"]["sa"]["mean"] == rows["sa"]["mean"]
    twice = call(server, "--table", "out/a", "out/a")[0][0]["settings"]["malt"]
    (alone,) = [r for r in accuracy_table(open_results("out/a")) if r["setting"] == "malt"]
    assert twice["teams"] == 1  # one team in two folders is one team
    assert twice == alone
    Path("a/team.toml").write_text(f"{Path('a/team.toml').read_text()}[own.later]\n"
                                   'generator = "../b/generator"\n')  # fmt: skip
    call(server, *words[:-1], "later", "--settings", "malt", "--team", "a/team.toml")
    later = call(server, "--table", "out/a", "later")[0][0]["settings"]["malt"]
    assert later["teams"] == 1  # further adapters do not make it another
    run = CliRunner().invoke(main, ["eval", "--table", "out/a", "out/b", "out/c", "--markdown"])
    assert run.stdout.splitlines()[0] == "|model|benchmark|sa|malt|malt+mv|"
    assert f"{100 * rows['malt']['mean']:.2f} ±" in run.stdout
    assert "(3 teams)" in run.stdout

    _, message = call(server, *words, "--settings", "sa", *teams, code=1)
    assert "None of the --settings uses adapters" in message
    _, message = call(server, *words[:-1], "out/a", "--settings", "malt", *teams, code=1)
    assert "contains the results of one team" in message
    _, message = call(server, *words, "--settings", "malt", *teams[:2], *teams[:2], code=1)
    assert "given twice" in message
    _, message = call(server, "out/a", code=2)
    assert "Pass --table and FOLDERS together" in message
    _, message = call(server, "--table", "out", code=1)
    assert "is not an evaluation" in message


def test_folders_with_different_specs_get_separate_rows(
    server: OpenAIServer, tmp_path: Path
) -> None:
    questions = write_questions(tmp_path / "q.jsonl")
    words = ["--questions", questions, "--split", "train", "--seeds", 1, "--settings"]
    for name, setting, more in (
        ("a", "sa", ["--model", "m"]),
        ("b", "ma", ["--model", "m"]),
        ("c", "sa", ["--model", "m", "--temperature", 0.9]),
        ("d", "sa", ["--model", "other"]),
    ):
        call(server, *words, setting, *more, "--out", tmp_path / name)
    rows, _ = call(server, "--table", *(tmp_path / name for name in "abcd"))
    assert [(row["model"], list(row["settings"]), row["differs"]) for row in rows] == [
        ("m", ["sa", "ma"], {"temperature": 0.3}),
        ("m", ["sa"], {"temperature": 0.9}),
        ("other", ["sa"], {}),
    ]
