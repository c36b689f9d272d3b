"""Episodes of `verifiers` become trees: who read whose reply tells who is under whom."""

import json
from pathlib import Path
from typing import Any

import pytest
from importers.episodes import episode, trace

from malt_data import (
    Forest,
    ImportReport,
    ImportSpec,
    MaltError,
    find_pipeline,
    import_forest,
    open_forest,
    verify,
)
from malt_data.importers.traces import CONVERSATION, FAILED

SAID = "It is 6."


def load(
    folder: Path, *episodes: object, spec: ImportSpec | None = None
) -> tuple[ImportReport, Forest]:
    (folder / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in episodes))
    report = import_forest([folder / "traces.jsonl"], folder / "forest", spec)
    forest = open_forest(folder / "forest")
    assert verify(forest) == []
    return report, forest


def test_episodes_of_one_task_are_one_tree(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 8, "completion_tokens": 4, "cached_input_tokens": 2}
    episodes = [
        episode(
            trace("generator", "2 + 3?", SAID, usage=usage, sampling={"seed": 7}),
            trace("verifier", f"Check: {SAID}", "No."),
            trace("refiner", f"{SAID} No.", said),
        )
        for said in ("Final Answer: 5", "Final Answer: 6")
    ]
    report, forest = load(tmp_path, *episodes)
    assert report.completions == {"generator": 2, "verifier": 2, "refiner": 2}
    texts = forest.sql("SELECT texts[3], reward FROM trajectories ORDER BY leaf_id").rows()
    assert texts == [("Final Answer: 5", 1.0), ("Final Answer: 6", 0.0)]
    first = forest.sql("SELECT * FROM nodes WHERE depth = 1").row(0, named=True)
    assert (first["model"], first["seed"], first["finish_reason"]) == ("m", 7, "stop")
    assert (first["prompt_tokens"], first["cached_tokens"]) == (10, 2)
    assert (first["completion_tokens"], first["latency"]) == (4, 0.5)
    assert forest.sql("SELECT question, gold, meta FROM questions").rows() == [
        ("What is 2 + 3?", "5", "{}")
    ]


def test_a_reply_in_the_prompt_tells_the_parent(tmp_path: Path) -> None:
    """Also of replies that contain each other, and equal ones share the children."""
    replies = ["It is 5.", "I think. It is 5.", "It is 6.", "It is 6."]
    row = episode(
        *[trace("generator", "2 + 3?", reply) for reply in replies],
        trace("refiner", "You said: I think. It is 5.", "Final Answer: 51"),
        trace("refiner", "You said: It is 6.", "Final Answer: 61"),
        trace("refiner", "You said: It is 6.", "Final Answer: 62"),
        trace("refiner", "You said: It is 5.", "Final Answer: 50"),
    )
    _, forest = load(tmp_path, row)
    assert forest.sql("SELECT texts FROM trajectories ORDER BY leaf_id").rows() == [
        (["It is 5.", "Final Answer: 50"],),
        (["I think. It is 5.", "Final Answer: 51"],),
        (["It is 6.", "Final Answer: 61"],),
        (["It is 6.", "Final Answer: 62"],),
    ]


def test_who_speaks_again_speaks_after_what_the_prompt_shows(tmp_path: Path) -> None:
    row = episode(
        trace("generator", "2 + 3?", "It is 6."),
        trace("generator", "2 + 3?", "It is 7."),
        trace("verifier", "Check: It is 6.", "No, add."),
        trace("refiner", "It is 6. No, add.", "It is 5."),
        trace("verifier", "Check: It is 7.", "No, count."),  # not of the refiner, who is there
        trace("refiner", "It is 7. No, count.", "It is 8."),
        trace("verifier", "Check: It is 5.", "Yes."),
        trace("verifier", "Check: It is 8.", "Hardly."),
        trace("refiner", "It is 5. Yes.", "Final Answer: 5"),
        trace("refiner", "It is 8. Hardly.", "Final Answer: 8"),
    )
    _, forest = load(tmp_path, row, spec=ImportSpec(pipeline=find_pipeline("malt2")))
    assert forest.sql(
        "SELECT texts[1], texts[2], texts[5] FROM trajectories ORDER BY 1"
    ).rows() == [
        ("It is 6.", "No, add.", "Final Answer: 5"),
        ("It is 7.", "No, count.", "Final Answer: 8"),
    ]


@pytest.mark.parametrize("read", ["It is 5. It is 6.", "Nothing."])
def test_a_parent_that_cannot_be_told_is_refused(tmp_path: Path, read: str) -> None:
    row = episode(
        trace("generator", "2 + 3?", "It is 5."),
        trace("generator", "2 + 3?", "It is 6."),
        trace("refiner", read, "Final Answer: 5"),
    )
    with pytest.raises(MaltError, match=r"line 1 trace 3: its prompt shows the reply of (no|more)"):
        load(tmp_path, row)
    assert not (tmp_path / "forest").exists()


def test_one_agent_of_any_name_is_the_generator(tmp_path: Path) -> None:
    report, _ = load(tmp_path, episode(*[trace("agent", "2 + 3?", said) for said in "56"]))
    assert report.pipeline == "generator 2"


def test_an_episode_that_failed_does_not_say_who_speaks(tmp_path: Path) -> None:
    whole = episode(
        trace("generator", "2 + 3?", SAID),
        trace("verifier", f"Check: {SAID}", "No."),
        trace("refiner", f"{SAID} No.", "Final Answer: 5"),
    )
    broken = episode(trace("generator", "2 + 3?", SAID)) | {"ok": False}
    report, _ = load(tmp_path, broken, whole)
    assert report.completions == {"generator": 1, "verifier": 1, "refiner": 1}
    assert report.left_out == {FAILED: 1}


def test_an_agent_who_is_not_in_the_first_episode_is_refused(tmp_path: Path) -> None:
    alone = episode(trace("generator", "2 + 3?", SAID))
    both = episode(trace("generator", "2 + 3?", SAID), trace("refiner", SAID, "5"))
    with pytest.raises(MaltError, match="by the agent 'refiner', who does not speak there"):
        load(tmp_path, alone, both)


def test_agents_of_a_pipeline_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "critic.toml").write_text(
        "[[turns]]\nrole='solver'\n[[turns]]\nrole='critic'\n[[turns]]\nrole='solver'\n"
        "prompt='revise'\n[prompts.numeric.solver]\nuser='{question}'\n"
        "[prompts.numeric.critic]\nuser='{question} {solver}'\n"
        "[prompts.numeric.revise]\nuser='{question} {solver} {critic}'\n"
    )
    row = episode(
        trace("first", "2 + 3?", SAID),
        trace("critic", f"Check: {SAID}", "No."),
        trace("first", f"{SAID} No.", "Final Answer: 5"),
    )
    pipeline = find_pipeline(tmp_path / "critic.toml")
    spec = ImportSpec(pipeline=pipeline, roles={"first": "solver"})
    report, forest = load(tmp_path, row, spec=spec)
    assert report.pipeline == "solver 1 → critic 1 → solver 1 (revise)"
    assert forest.sql("SELECT DISTINCT label FROM nodes").item() is True


def test_what_is_no_completion_is_left_out_and_counted(tmp_path: Path) -> None:
    failed = episode(trace("agent", "2 + 3?", "5")) | {"ok": False}
    several = trace("agent", "2 + 3?", "5")
    several["nodes"] += [{"parent": 1, "message": {"role": "assistant"}, "sampled": True}]
    tool = trace("agent", "2 + 3?", "5")
    tool["nodes"][1]["message"]["tool_calls"] = [{"id": "1", "name": "f", "arguments": "{}"}]
    good = episode(trace("agent", "2 + 3?", "5"))
    report, _ = load(tmp_path, good, failed, episode(several), episode(tool))
    assert report.left_out == {CONVERSATION: 2, FAILED: 1}
    assert report.completions == {"generator": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"traces": [{}]},
        {"traces": [5]},
        {"traces": [trace("agent", "", "") | {"nodes": None}]},
        {"traces": [trace("agent", "", "", usage={"prompt_tokens": "many"})]},
        {"task": {"data": 5}},
        {"task": None},
        {"traces": [trace(5, "", "")]},
        {"ok": 1, "traces": "x"},
    ],
    ids=str,
)
def test_a_row_that_is_no_episode_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    good = episode(trace("agent", "2 + 3?", "5"))
    with pytest.raises(MaltError, match=r"line 2|line 1 trace 1"):
        load(tmp_path, good, {**good, **change})
    assert not (tmp_path / "forest").exists()


def test_agents_that_no_pipeline_has_are_refused(tmp_path: Path) -> None:
    row = episode(trace("solver", "2 + 3?", SAID), trace("critic", SAID, "No."))
    with pytest.raises(MaltError, match="by solver → critic; no shipped pipeline"):
        load(tmp_path, row)


def test_a_file_that_verifiers_wrote(tmp_path: Path) -> None:
    v1 = pytest.importorskip("verifiers.v1")
    from verifiers.v1 import graph, types
    from verifiers.v1 import trace as traces
    from verifiers.v1.utils.trace_store import write_episode

    class Data(v1.TaskData):  # type: ignore[misc, name-defined]
        answer: str

    task = traces.TraceTask(type="QA", data=Data(idx=0, prompt="What is 2 + 3?", answer="5"))

    def wrote(agent: str, read: str, said: str) -> Any:
        made = traces.Trace(
            task=task, agent=traces.AgentInfo(config=v1.AgentConfig(), name=agent), ok=True
        )
        made.nodes = [
            graph.MessageNode(message=types.UserMessage(content=read)),
            graph.MessageNode(parent=0, message=types.AssistantMessage(content=said), sampled=True),
        ]
        usage = types.Usage(prompt_tokens=8, completion_tokens=4)
        made.calls = [traces.ModelCall(node=1, model="m", finish_reason="length", usage=usage)]
        return made

    chain = [
        wrote("generator", "2 + 3?", SAID),
        wrote("verifier", SAID, "No."),
        wrote("refiner", "No.", "Final Answer: 5"),
    ]
    write_episode(tmp_path, v1.Episode(task=task, ok=True, traces=chain))
    report = import_forest([tmp_path / "traces.jsonl"], tmp_path / "forest")
    assert report.completions == {"generator": 1, "verifier": 1, "refiner": 1}
    forest = open_forest(tmp_path / "forest")
    said = forest.sql("SELECT DISTINCT label, finish_reason, completion_tokens FROM nodes").rows()
    assert said == [(True, "length", 4)]
