"""Evaluations of other pipelines, recomputed from their completions; and what none can play."""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from chains import CRITICS
from evaluation.harness import malt, timeless, write_questions
from openai_server import OpenAIServer
from shell import malt as run_malt

from malt_data import Results, open_results
from malt_data.errors import EvalError, SpecError
from malt_data.evaluation.evaluate import evaluate
from malt_data.evaluation.plan import plan_evaluation
from malt_data.evaluation.settings import find_settings
from malt_data.prompts.pipelines import find_pipeline
from malt_data.schemas.spec import EvalSpec

PIPELINE = (
    CRITICS
    + """
[prompts.numeric.solver]
user = "{question} Solve it."
[prompts.numeric.critic]
user = "{question} Criticise: {solver}"
[prompts.numeric.again]
system = "Be careful."
user = "{question} First: {solver} Critic: {critic} Before: {previous}"
"""
)
SETTINGS = """
[whole]
adapters = "team"
[two]
turns = 2
[skips]
turns = ["solver", "again"]
[long]
turns = ["solver", "critic", "again", "critic", "again"]
adapters = "team"
base = ["critic"]
[five]
turns = 2
votes = 5
"""
CHAINS = {
    "whole+mv": ["solver", "critic", "again"],
    "two": ["solver", "critic"],
    "skips": ["solver", "again"],
    "long": ["solver", "critic", "again", "critic", "again"],
    "five": ["solver", "critic"],
}
TEAM = {"team": {"solver": "s", "critic": "c"}}
ROLES = {"solver": "solver", "critic": "critic", "again": "solver"}
CRITICISMS = {
    "Yes, this is right.": "accepts",
    "No, it is four.": "rejects",
    "I cannot tell.": "unclear",
    "Final Answer: 3": None,
}


def answer(messages: list[dict[str, str]], seed: int | None, sample: int) -> str:
    """Answer by the chat and the seed; the gold is 3."""
    source = random.Random(f"{messages[-1]['content']}{seed}")
    if re.search("Criticise|Is the initial answer correct", messages[-1]["content"]):
        return source.choice(list(CRITICISMS))
    return source.choice(["Final Answer: 3", "Final Answer: 3", "Final Answer: 4", "Pardon?"])


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer, models=()) as server:
        yield server


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return the folder of the pipeline, the settings and the questions."""
    return write_files(tmp_path)


def write_files(folder: Path) -> Path:
    (folder / "duo.toml").write_text(PIPELINE)
    (folder / "own.toml").write_text(SETTINGS)
    write_questions(folder / "q.jsonl")
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Results of CHAINS; beside them is what the server was sent."""
    files = write_files(tmp_path_factory.mktemp("pipelines"))
    pipeline = find_pipeline(files / "duo.toml")
    settings = find_settings(list(CHAINS), files / "own.toml", pipeline)
    assert {setting.name: [*setting.turns] for setting in settings} == CHAINS
    with OpenAIServer(answer, models=()) as server:
        spec = EvalSpec(questions=str(files / "q.jsonl"), split="train", pipeline=pipeline,
                        engine="openai", base_url=server.base_url, model="m")  # fmt: skip
        report = evaluate(plan_evaluation(spec, settings, TEAM, files / "out", seeds=2))
        sent = {(body["model"], json.dumps(body["messages"])) for body in server.bodies}
    assert report["failed"] == {}
    (files / "sent.json").write_text(json.dumps(sorted(sent)))
    return open_results(files / "out")


def passes(results: Results) -> dict[Any, list[dict[str, Any]]]:
    """Return the turns of (setting, seed, question, pass), in order."""
    found: dict[Any, list[dict[str, Any]]] = {}
    rows = pl.DataFrame(results.tables()["completions"].to_table())
    for row in rows.sort("turn").to_dicts():
        key = row["setting"], row["seed"], row["question_id"], row["pass"]
        found.setdefault(key, []).append(row)
    return found


def after(turns: list[dict[str, Any]], judge: str) -> list[str | None]:
    """Return what a pass would answer if it ended after each of its turns."""
    answers: list[str | None] = []
    for row in turns:
        keeps = row["role"] == judge and row["answer"] is None
        answers.append(answers[-1] if keeps else row["answer"])
    return answers


def elected(answers: list[str | None]) -> str | None:
    counts = Counter(answer for answer in answers if answer is not None)
    return next((a for a in answers if counts[a or ""] == max(counts.values(), default=1)), None)


def expected_prompt(question: str, names: list[str], texts: list[str]) -> list[dict[str, str]]:
    """Return what the turn after `texts` must be sent, from PIPELINE as a person reads it."""

    def nearest(role: str) -> str:
        spoke = [t for name, t in zip(names, texts, strict=False) if ROLES[name] == role]
        return spoke[-1] if spoke else ""

    name = names[len(texts)]
    if name == "solver":
        return [{"role": "user", "content": f"{question} Solve it."}]
    if name == "critic":
        return [{"role": "user", "content": f"{question} Criticise: {nearest('solver')}"}]
    shown = f"First: {nearest('solver')} Critic: {nearest('critic')} Before: {texts[-1]}"
    return [
        {"role": "system", "content": "Be careful."},
        {"role": "user", "content": f"{question} {shown}"},
    ]


def test_each_turn_is_sent_what_its_templates_say_by_the_adapter_of_its_role(
    results: Results,
) -> None:
    questions = {row["question_id"]: row["question"]
                 for row in results.sql("FROM questions").to_dicts()}  # fmt: skip
    shape: Counter[str] = Counter()
    stored = set()
    for (setting, _, question, _), turns in passes(results).items():
        names = CHAINS[setting]
        shape[setting] += 1
        assert [row["role"] for row in turns] == [ROLES[name] for name in names]
        for index, row in enumerate(turns):
            texts = [before["text"] for before in turns[:index]]
            assert json.loads(row["messages"]) == expected_prompt(questions[question], names, texts)
            trained = setting == "whole+mv" or (setting, row["role"]) == ("long", "solver")
            assert row["adapter"] == (row["role"][0] if trained else None)
            stored.add((row["adapter"] or "m", json.dumps(json.loads(row["messages"]))))
    assert shape == {"whole+mv": 72, "two": 24, "skips": 24, "long": 24, "five": 120}
    sent = json.loads((results.folder.parent / "sent.json").read_text())
    assert stored == {(model, prompt) for model, prompt in sent}


def test_settings_share_what_they_have_in_common_and_repeated_roles_have_other_seeds(
    results: Results,
) -> None:
    found = passes(results)
    for (setting, seed, question, number), turns in found.items():
        seeds = [row["sampling_seed"] for row in turns]
        assert len({*seeds}) == len(seeds)
        if setting == "two":
            five = found["five", seed, question, number]
            assert [row["text"] for row in turns] == [row["text"] for row in five]


def test_predictions_and_views_follow_from_the_completions(results: Results) -> None:
    answers: dict[Any, list[list[str | None]]] = {}
    for (*unit, _), turns in sorted(passes(results).items()):
        answers.setdefault(tuple(unit), []).append(after(turns, "critic"))
    predictions = results.predictions().to_dicts()
    assert len(predictions) == len(answers) == 5 * 24
    for row in predictions:
        votes = [said[-1] for said in answers[row["setting"], row["seed"], row["question_id"]]]
        assert row["votes"] == votes
        assert row["answer"] == elected(votes)
        assert row["correct"] is (row["answer"] == "3")
        assert row["generator_answer"] is row["verifier_answer"] is row["refiner_answer"] is None
    by_setting: dict[str, list[bool]] = {}
    by_turn: dict[Any, list[bool]] = {}
    voted: dict[Any, list[bool]] = {}
    for (setting, *_), said in answers.items():
        by_setting.setdefault(setting, []).append(elected([one[-1] for one in said]) == "3")
        for turn in range(len(CHAINS[setting])):
            by_turn.setdefault((setting, turn), []).extend(one[turn] == "3" for one in said)
            voted.setdefault((setting, turn), []).append(elected([o[turn] for o in said]) == "3")
    assert dict(results.sql("SELECT setting, accuracy FROM accuracy").rows()) == pytest.approx(
        {name: sum(right) / len(right) for name, right in by_setting.items()}
    )
    rows = results.sql("FROM turn_accuracy").to_dicts()
    assert len(rows) == sum(map(len, CHAINS.values()))
    for row in rows:
        key = row["setting"], row["turn"]
        assert row["role"] == ROLES[CHAINS[row["setting"]][row["turn"]]]
        assert row["accuracy"] == pytest.approx(sum(by_turn[key]) / len(by_turn[key]))
        assert row["voted"] == pytest.approx(sum(voted[key]) / len(voted[key]))


def test_verdicts_are_those_of_the_critic_in_each_of_its_turns(results: Results) -> None:
    expected: dict[Any, Counter[tuple[str, bool]]] = {}
    for (setting, *_), turns in passes(results).items():
        said = after(turns, "critic")
        for turn, row in enumerate(turns):
            if row["role"] == "critic":
                judgement = CRITICISMS[row["text"]]
                right = said[turn - 1] == "3"
                judgement = judgement or ("accepts" if right else "rejects")
                expected.setdefault((setting, turn), Counter())[judgement, right] += 1
    rows = results.sql("FROM verdicts").to_dicts()
    assert {(row["setting"], row["turn"]) for row in rows} == expected.keys()
    assert {key for key in expected if key[0] == "long"} == {("long", 1), ("long", 3)}
    for row in rows:
        found = expected[row["setting"], row["turn"]]
        assert row["judged"] == found.total()
        assert row["true_acceptances"] == found["accepts", True]
        assert row["false_acceptances"] == found["accepts", False]
        assert row["true_rejections"] == found["rejects", False]
        assert row["false_rejections"] == found["rejects", True]
    assert results.sql("FROM roles ORDER BY role").rows() == [("critic", True), ("solver", False)]


def write_team(folder: Path) -> Path:
    path = folder / "team.toml"
    path.write_text('model = "m"\n[adapters]\ngenerator = "g"\nverifier = "v"\nrefiner = "r"\n')
    return path


def test_malt2_judges_and_refines_the_refined_answer(server: OpenAIServer, files: Path) -> None:
    words = ["--questions", files / "q.jsonl", "--split", "train", "--seeds", 1,
             "--team", write_team(files)]  # fmt: skip
    malt(server, *words, "--settings", "malt,malt-gv", "--out", files / "malt")
    facts, message = malt(server, *words, "--pipeline", "malt2", "--settings", "malt,malt-gv+mv",
                          "--figures", "--out", files / "malt2")  # fmt: skip
    assert facts["units"] == 24
    assert "turns.svg" in message
    one, two = open_results(files / "malt"), open_results(files / "malt2")
    once, twice = passes(one), passes(two)
    refined = {
        row["question_id"]: row for row in two.predictions().filter(setting="malt").to_dicts()
    }
    for key, turns in once.items():
        if key[0] != "malt":
            continue
        again = twice[key]
        assert [row["role"][0] for row in again] == ["g", "v", "r", "v", "r"]
        assert [row["adapter"] for row in again] == ["g", "v", "r", "v", "r"]
        same = ("messages", "text", "sampling_seed")
        assert [[row[name] for name in same] for row in again[:3]] == [
            [row[name] for name in same] for row in turns
        ]
        shown = [json.loads(row["messages"])[-1]["content"] for row in again]
        assert f"Initial Answer: {again[0]['text']}\n" in shown[1]
        assert f"Initial Answer: {again[2]['text']}\n" in shown[3]
        assert f"Initial Answer: {again[2]['text']}\n" in shown[4]
        assert f"Verification: {again[3]['text']}\n" in shown[4]
        prediction = refined[key[2]]
        assert prediction["generator_answer"] == again[0]["answer"]
        assert prediction["verifier_answer"] == again[3]["answer"]
        assert prediction["refiner_answer"] == prediction["answer"] == again[4]["answer"]
    verdicts = two.sql("SELECT setting, turn FROM verdicts").rows()
    assert verdicts == [("malt", 1), ("malt", 3), ("malt-gv+mv", 1)]


def test_an_evaluation_of_a_pipeline_file_resumes_and_refuses_another(
    server: OpenAIServer, files: Path
) -> None:
    base = ["--questions", files / "q.jsonl", "--split", "train", "--seeds", 1,
            "--settings", "two,skips,debate", "--settings-file", files / "own.toml"]  # fmt: skip
    words = [*base, "--pipeline", files / "duo.toml"]
    whole, _ = malt(server, *words, "--out", files / "a")
    server.fail_every, server.faults = 25, ("400",)
    malt(server, *words, "--out", files / "b", code=1)
    server.fail_every = 0
    (files / "c.toml").write_text(f'pipeline = "{files / "duo.toml"}"\n')
    rest, _ = malt(server, *base, "--config", files / "c.toml", "--out", files / "b")
    assert 0 < rest["played"] < rest["units"]
    assert timeless(rest["settings"]) == timeless(whole["settings"])
    stored = json.loads((files / "b" / "eval.json").read_text())["spec"]
    assert stored["pipeline"] == {
        "turns": [
            {"role": "solver", "prompt": None, "judges": False},
            {"role": "critic", "prompt": None, "judges": True},
            {"role": "solver", "prompt": "again", "judges": False},
        ],
        "aliases": {},
    }
    assert stored["prompts"].keys() == {"numeric"}
    asked = len(server.bodies)
    more_samples = PIPELINE.replace("n = 2", "n = 7")  # of a build
    (files / "renamed.toml").write_text(more_samples)
    again, _ = malt(server, *base, "--pipeline", files / "renamed.toml", "--out", files / "b")
    assert again["played"] == 0
    (files / "duo.toml").write_text(PIPELINE.replace("judges = true", ""))
    _, message = malt(server, *words, "--out", files / "b", code=1)
    assert "contains an evaluation with a different pipeline. " in message
    assert len(server.bodies) == asked


def test_a_folder_from_before_pipelines_was_played_with_malt(
    server: OpenAIServer, files: Path
) -> None:
    words = ["--questions", files / "q.jsonl", "--split", "train", "--seeds", 1,
             "--out", files / "out"]  # fmt: skip
    malt(server, *words, "--settings", "ma")
    path = files / "out" / "eval.json"
    manifest = json.loads(path.read_text())
    for name in ("pipeline", "chat_template"):
        del manifest["spec"][name]
    path.write_text(json.dumps(manifest))
    before = open_results(files / "out")
    assert before.sql("FROM roles WHERE judges").rows() == [("verifier", True)]
    facts, _ = malt(server, *words, "--settings", "ma,sa")
    assert (facts["played"], facts["units"]) == (12, 24)
    for other in (["--pipeline", "malt2"], ["--config", files / "plain.toml"]):
        (files / "plain.toml").write_text("[chat_template]\nplain = true\n")
        _, message = malt(server, *words, "--settings", "ma", *other, code=1)
        assert re.search("a different (pipeline|prompts|chat_template)", message)


def test_a_corrupt_pipeline_in_the_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "predictions.parquet").touch()
    path = tmp_path / "eval.json"
    broken: list[Any] = [[], {}, {"turns": 3}, {"turns": [{"role": "B"}]}, {"turns": [], "hats": 6}]
    for pipeline in broken:
        manifest = {"schema": "eval/1", "spec": {"pipeline": pipeline}}
        path.write_text(json.dumps(manifest))
        with pytest.raises(EvalError, match=r"eval\.json cannot be read"):
            open_results(tmp_path)
        path.write_text(json.dumps({**manifest, "schema": "eval/2"}))
        with pytest.raises(EvalError, match="has schema eval/2"):
            open_results(tmp_path)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ('["solver", "judge"]', "The pipeline has no turn 'judge'. Its turns: solver, critic, "),
        ('["critic"]', "{solver} stands for a text above turn 1, critic, but it speaks first."),
        ('["again"]', "{solver} stands for a text above turn 1, solver, but it speaks first."),
        ('["critic", "solver"]', "{solver} stands for a text above turn 1, critic, but it "
         "speaks first."),
        ('["solver", "again", "critic"]', "{critic} stands for a text above turn 2, solver, but "
         "only solver spoke before it."),
        ("4", "turns = 4, but the pipeline has turns 1 to 3: solver, critic, again."),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_played_is_refused_before_anything_is_sampled(
    server: OpenAIServer, files: Path, turns: str, message: str
) -> None:
    (files / "own.toml").write_text(f"[mine]\nturns = {turns}\n")
    words = ["--questions", files / "q.jsonl", "--split", "train", "--settings", "mine",
             "--settings-file", files / "own.toml", "--pipeline", files / "duo.toml",
             "--out", files / "out"]  # fmt: skip
    _, said = malt(server, *words, code=2)
    assert f"Setting mine: {message}" in re.sub(r"\s+", " ", said)
    assert not server.requests
    assert not (files / "out").exists()


def test_what_a_pipeline_lacks_is_named(server: OpenAIServer, files: Path) -> None:
    words = ["--split", "train", "--settings", "sa", "--out", files / "out"]
    duo = ["--pipeline", files / "duo.toml"]
    _, said = malt(server, "--questions", files / "q.jsonl", *words, "--pipeline", "malt9", code=2)
    assert "Unknown pipeline 'malt9'." in said
    assert "Choose from malt, generator, malt2, refine, or pass a TOML file." in said
    (files / "math.toml").write_text('kind = "math"\n')
    _, said = malt(server, "--questions", files / "q.jsonl", *words, *duo,
                   "--config", files / "math.toml", code=2)  # fmt: skip
    assert "[prompts.math.solver], [prompts.math.critic], [prompts.math.again]" in said
    assert not server.requests
    pipeline = find_pipeline(files / "duo.toml")
    (setting,) = find_settings(["malt"], pipeline=pipeline)
    spec = EvalSpec(questions=str(files / "q.jsonl"), pipeline=pipeline, model="m")
    with pytest.raises(EvalError, match="needs the team adapters of a team"):
        plan_evaluation(spec, [setting], {}, files / "out")
    with pytest.raises(SpecError, match="Setting ma: The pipeline has no turn 'generator'"):
        plan_evaluation(spec, find_settings(["ma"]), {}, files / "out")  # of another pipeline


def test_a_team_keeps_its_prompts_for_the_turns_that_another_pipeline_has_too(
    server: OpenAIServer, files: Path
) -> None:
    team = write_team(files)
    prompts = {
        "generator": "{question} Go.",
        "verifier": "{question} {initial_answer} Right?",
        "refiner": "{question} {initial_answer} {verification} Refine.",
    }
    with team.open("a") as file:
        for role, text in prompts.items():
            file.write(f'[sampling.prompts.numeric.{role}]\nuser = "{text}"\n')
    engine = ["--engine", "openai", "--base-url", server.base_url, "--team", team, "--json"]
    for words, turns in (
        (["--pipeline", "refine", "--setting", "malt"], ["generator", "refiner"]),
        (["--pipeline", files / "duo.toml", "--setting", "ma"], ["solver", "critic", "solver"]),
        (["--setting", "malt"], ["generator", "verifier", "refiner"]),
    ):
        run = run_malt("ask", "What is 1 + 2?", *words, *engine)
        assert run.returncode == 0, run.stderr
        assert [turn["role"] for turn in json.loads(run.stdout)["turns"]] == turns
    sent = [body["messages"][-1]["content"] for body in server.bodies]
    assert sent[0] == "What is 1 + 2? Go."
    assert re.fullmatch(r"What is 1 \+ 2\? .*  Refine\.", sent[1])  # no verification
    assert sent[2] == "What is 1 + 2? Solve it."


def test_ask_prints_each_turn_of_a_pipeline(server: OpenAIServer, files: Path) -> None:
    run = run_malt("ask", "What is 1 + 2?", "--pipeline", files / "duo.toml", "--setting", "ma",
                   "--engine", "openai", "--base-url", server.base_url, "--model", "m")  # fmt: skip
    assert run.returncode == 0, run.stderr
    heads = [line for line in run.stdout.splitlines() if re.fullmatch(r"1 \w+", line)]
    assert heads == ["1 solver", "1 critic", "1 solver"]
    assert run.stdout.splitlines()[-1].startswith("Answer: ")
