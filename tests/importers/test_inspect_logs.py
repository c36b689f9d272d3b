"""Logs of inspect, written by inspect itself with its mock model, become rollouts of one role."""

from pathlib import Path
from typing import Any

import pytest

from malt_data import MaltError, import_forest, open_forest, verify
from malt_data.importers.inspect_logs import FAILED
from malt_data.importers.traces import CONVERSATION


def test_without_inspect_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "inspect_ai.log", None)
    (tmp_path / "run.eval").write_bytes(b"PK")
    with pytest.raises(MaltError, match=r"pip install 'malt-data\[inspect\]'"):
        import_forest([tmp_path / "run.eval"], tmp_path / "forest")


def evaluate(folder: Path, said: list[Any], **task: Any) -> Path:
    """Run inspect with a model that says these things; return the log."""
    import inspect_ai
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    outputs = []
    for each in said:
        output = each if isinstance(each, ModelOutput) else ModelOutput.from_content("mock", each)
        output.usage = ModelUsage(input_tokens=3, output_tokens=4, total_tokens=7)
        outputs.append(output)
    model = get_model("mockllm/model", custom_outputs=outputs, memoize=False)

    async def count(*_: object, **__: object) -> int:
        return 1

    for name in dir(model.api):
        if name.startswith("count_"):  # they would load a tokenizer from elsewhere
            setattr(model.api, name, count)
    (log,) = inspect_ai.eval(
        inspect_ai.Task(**task), model=model, display="none", log_dir=str(folder / "logs"),
        fail_on_error=False, max_samples=1,
    )  # fmt: skip
    return Path(log.location)


@pytest.mark.filterwarnings("default")
def test_a_log_that_inspect_wrote(tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    from inspect_ai.dataset import Sample
    from inspect_ai.solver import generate

    samples = [
        Sample(input="What is 2 + 3?", target="5", metadata={"level": 1}),
        Sample(input="Which is 5?", choices=["2 + 2", "2 + 3"], target="B"),
    ]
    log = evaluate(
        tmp_path,
        ["Final Answer: 5", "Final Answer: A", "<think>2, 3</think>Final Answer: 6", "B"],
        dataset=samples, epochs=2, solver=generate(), name="sums",
    )  # fmt: skip
    report = import_forest([log], tmp_path / "forest")
    assert (report.trees, report.completions) == (2, {"generator": 4})
    forest = open_forest(tmp_path / "forest")
    assert verify(forest) == []
    rows = forest.sql("SELECT kind, gold, source, meta FROM questions ORDER BY kind").rows()
    assert rows == [("choice", "B", "sums", '{"id": 2}'), ("numeric", "5", "sums", rows[1][3])]
    said = forest.sql("SELECT model, prompt_tokens, completion_tokens, seed FROM nodes").rows()
    assert set(said) == {("mock", 3, 4, None)}
    assert forest.sql("SELECT count(*) FROM nodes WHERE thinking = '2, 3'").item() == 1


@pytest.mark.filterwarnings("default")
def test_conversations_and_failures_are_left_out(tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    from inspect_ai.dataset import Sample
    from inspect_ai.solver import chain, generate, user_message

    twice = chain(generate(), user_message("Sure?"), generate())
    samples = [Sample(input="What is 2 + 3?", target="5"), Sample(input="1 + 1?", target="2")]
    log = evaluate(tmp_path, ["5", "6", "2"], dataset=samples, solver=twice)
    with pytest.raises(MaltError, match=f"{CONVERSATION} .1.; {FAILED} .1."):
        import_forest([log], tmp_path / "forest")


@pytest.mark.filterwarnings("default")
def test_a_corrupt_log_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    for content in (b"", b"PK", b"hello" * 100):
        (tmp_path / "run.eval").write_bytes(content)
        with pytest.raises(MaltError, match=r"inspect cannot read .*run\.eval"):
            import_forest([tmp_path / "run.eval"], tmp_path / "forest")
