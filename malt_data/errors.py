"""The errors a user can cause, in one small tree.

    MaltError
    ├── SpecError          a setting, file or flag that cannot work (exit code 2)
    ├── QuestionsError     a question source that cannot be read
    ├── StorageError       a file or folder that cannot be read or written
    ├── ForestError        a forest that is missing, corrupt, foreign or newer than this code
    │   └── MixError       a build whose settings differ from the forest's
    ├── ExportError        an export that cannot be made, read or trained on
    ├── EvalError          an evaluation that cannot begin or go on
    ├── TrainError         a training that cannot begin or go on
    ├── HubError           the Hub refused, changed meanwhile, or cannot be reached
    ├── QueryError         SQL that failed or tried to leave the forest
    └── EngineError        a request that failed after its retries
        └── EngineDown     no request can succeed: stop the build

A message says what happened, where, and what to do next. The library raises these and never
prints; `cli.py` turns them into one sentence on stderr and an exit code. To add one: subclass
the branch whose handling it shares, and let the message carry the next step.
"""

import os

from malt_data.display import printable


class MaltError(Exception):
    """Base of every error that a user can cause.

    Its text may quote what others wrote: `str` gives it as one line that is fit for a terminal.
    """

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class SpecError(MaltError):
    """A setting that cannot work: a wrong flag, an unknown key, an impossible value."""

    exit_code = 2


class QuestionsError(MaltError):
    """A question source that cannot be read, or that holds no usable question."""


class StorageError(MaltError):
    """A file or folder that is missing, corrupt, locked or full; what was finished is kept."""


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


def of_system(error: OSError) -> MaltError:
    """Return what the operating system refused as a message: the net under every command."""
    try:
        os.getcwd()  # noqa: PTH109 - Path.cwd() is the same call
    except FileNotFoundError:
        return MaltError("The folder that this was started in is gone: cd to one that exists.")
    return MaltError(
        f"{error.filename or 'A file'} could not be read or written: "
        f"{error.strerror or one_line(error)}. Check the path, its permissions and the free space, "
        "and run the same command again."
    )


def one_line(error: BaseException) -> str:
    """Return an error's words on one line, without a final period."""
    words = " ".join(str(error).split()) or type(error).__name__
    return (words if len(words) <= 300 else words[:300] + " …").rstrip(".")
