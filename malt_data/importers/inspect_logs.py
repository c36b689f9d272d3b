"""Read completions from the `.eval` logs of inspect, with inspect's own reader.

A sample is a question (`input`, `choices`, `target`), its epochs are samples of one role. A sample
in which the model spoke several times is left out: its last answer is not one to the question.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from malt_data.errors import ImportsError, one_line
from malt_data.importers.completions import Imported, imported
from malt_data.importers.traces import CONVERSATION

FAILED = "the sample failed"
_CUT = ("max_tokens", "model_length")


def read_log(path: Path, file: int, left_out: Counter[str]) -> Iterator[Imported]:
    """Yield the completions of a log; count in `left_out` the samples that are unusable.

    Raises ImportsError if inspect_ai is not installed or cannot read the log.
    """
    try:
        from inspect_ai.log import read_eval_log
    except ImportError as error:
        raise ImportsError(
            f"{path} is a log of inspect, which needs its library ({one_line(error)}). "
            "Install it: pip install 'malt-data[inspect]'"
        ) from None
    try:
        log = read_eval_log(str(path), resolve_attachments=True)
    except Exception as error:  # noqa: BLE001 - whatever a corrupt log makes the reader raise
        raise ImportsError(f"inspect cannot read {path}: {one_line(error)}.") from None
    for sample in log.samples or ():
        where = f"{path} sample {sample.id}, epoch {sample.epoch}"
        if sample.error is not None or not sample.output.choices:
            left_out[FAILED] += 1
        elif (question := _question(sample, log.eval.dataset.name or log.eval.task)) is None:
            left_out[CONVERSATION] += 1
        else:
            yield from _sample(where, sample, question, log.eval.model, file)


def _question(sample: Any, source: str) -> dict[str, Any] | None:
    """Return the row of a sample's question; None if more was said than one answer to it."""
    asked = sample.input
    if not isinstance(asked, str):
        users = [message.text for message in asked if message.role == "user"]
        if len(users) != 1 or any(message.role == "assistant" for message in asked):
            return None
        (asked,) = users
    answers = [message for message in sample.messages if message.role == "assistant"]
    if len(answers) != 1 or answers[0].tool_calls:
        return None
    row = {"question": asked, "choices": sample.choices, "answer": sample.target}
    return {**sample.metadata, **row, "id": sample.id, "source": source}


def _sample(
    where: str, sample: Any, question: dict[str, Any], model: str, file: int
) -> Iterator[Imported]:
    output = sample.output
    usage = output.usage if len(output.choices) == 1 else None  # else of them all
    cached = usage and usage.input_tokens_cache_read
    for index, choice in enumerate(output.choices):
        thought = [
            part.reasoning
            for part in (choice.message.content if isinstance(choice.message.content, list) else ())
            if part.type == "reasoning"
        ]
        place = f"{where}, choice {index + 1}" if index else where
        said = {
            "text": choice.message.text,
            "thinking": "\n\n".join(thought) or None,
            "finish_reason": "length" if choice.stop_reason in _CUT else choice.stop_reason,
            "model": output.model or model,
            "completion_tokens": usage and usage.output_tokens,
            "cached_tokens": cached,
            "latency": output.time,
        }
        if usage:
            written = usage.input_tokens_cache_write or 0
            said["prompt_tokens"] = usage.input_tokens + (cached or 0) + written
        yield imported(place, said, file=file, key=place, row=question)
