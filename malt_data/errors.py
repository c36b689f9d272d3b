"""The errors a user can cause, in one small tree.

    MaltError
    ├── SpecError          a setting, file or flag that cannot work (exit code 2)
    ├── QuestionsError     a question source that cannot be read
    ├── ForestError        a forest that is missing, torn, foreign or newer than this code
    │   └── MixError       a build whose settings differ from the forest's
    ├── ExportError        an export that cannot be made, read or trained on
    ├── EvalError          an evaluation that cannot begin or go on
    ├── TrainError         a training that cannot begin or go on
    ├── HubError           the Hub refused, changed meanwhile, or cannot be reached
    ├── QueryError         SQL that failed or tried to leave the forest
    └── EngineError        a completion that could not be had
        └── EngineDown     no completion can be had at all: stop the build

A message says what happened, where, and what to do next. The library raises these and never
prints; `cli.py` turns them into one sentence on stderr and an exit code. To add one: subclass
the branch whose handling it shares, and let the message carry the next step.
"""


class MaltError(Exception):
    """Base of every error that a user can cause."""

    exit_code = 1


class SpecError(MaltError):
    """A setting that cannot work: a wrong flag, an unknown key, an impossible value."""

    exit_code = 2


class QuestionsError(MaltError):
    """A question source that cannot be read, or that holds no usable question."""


class ForestError(MaltError):
    """A forest that cannot be opened or written as asked."""


class MixError(ForestError):
    """A build into a forest that was grown with other settings."""


class ExportError(MaltError):
    """An export that cannot be made, read or trained on."""


class EvalError(MaltError):
    """An evaluation that cannot begin or go on."""


class TrainError(MaltError):
    """A training that cannot begin or go on; said before the hours of work."""


class HubError(MaltError):
    """The Hub refused, holds another's work, or cannot be reached; nothing was half done."""


class QueryError(MaltError):
    """SQL that failed, ran out of memory or tried to leave the forest."""


class EngineError(MaltError):
    """One request that failed after its retries; its tree stays out of the forest."""


class EngineDown(EngineError):
    """No request can succeed (no server, wrong key, unknown model): the build stops."""


def one_line(error: BaseException) -> str:
    """Return an error's words on one line, without a final period."""
    words = " ".join(str(error).split()) or type(error).__name__
    return (words if len(words) <= 300 else words[:300] + " …").rstrip(".")
