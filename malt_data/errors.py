"""The errors a user can cause.

    MaltError
    ├── SpecError          an invalid setting, file or flag (exit code 2)
    ├── QuestionsError     a question source that cannot be read
    ├── ImportsError       completions of another tool that cannot become a forest
    ├── GraderError        a function of the user's own that cannot grade
    ├── StorageError       a file or folder that cannot be read or written
    ├── ForestError        a forest that is missing, corrupt or newer than this code
    │   └── MixError       a build whose settings differ from the forest's
    ├── ExportError        an export that cannot be written, read or trained on
    ├── EvalError          an evaluation that cannot start or continue
    ├── TrainError         a training run that cannot start or continue
    ├── HubError           the Hub refused, is unreachable, or the repo changed meanwhile
    ├── QueryError         SQL that failed or tried to access files or the network
    └── EngineError        a request that failed after its retries
        └── EngineDown     no request can succeed: stop the build

A message says what happened, where, and what to do next. The library raises these errors and never
prints; `cli.py` prints them as one line on stderr and sets the exit code. A new error subclasses
the branch whose handling it shares.
"""

import os

from malt_data.display import printable


class MaltError(Exception):
    """Base of every error that a user can cause.

    Messages may quote untrusted text, so `str` escapes control characters and returns one line.
    """

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class SpecError(MaltError):
    """An invalid setting: a wrong flag, an unknown key, a value out of range."""

    exit_code = 2


class QuestionsError(MaltError):
    """A question source that cannot be read or has no usable question."""


class ImportsError(MaltError):
    """Completions of another tool that cannot become a forest; nothing was written."""


class GraderError(MaltError):
    """A grader that cannot be loaded, or that fails on every completion."""


class StorageError(MaltError):
    """A missing, corrupt or locked file or folder, or a full disk; finished work is kept."""


class ForestError(MaltError):
    """A forest that cannot be opened or written."""


class MixError(ForestError):
    """A build into a forest that was grown with other settings."""


class ExportError(MaltError):
    """An export that cannot be written, read or trained on."""


class EvalError(MaltError):
    """An evaluation that cannot start or continue."""


class TrainError(MaltError):
    """A training run that cannot start or continue; raised before training if possible."""


class HubError(MaltError):
    """The Hub refused, is unreachable, or has changes by others; nothing was partially written."""


class QueryError(MaltError):
    """SQL that failed, ran out of memory, or tried to access files or the network."""


class EngineError(MaltError):
    """A request that failed after its retries; its tree is not added to the forest."""


class EngineDown(EngineError):
    """No request can succeed (no server, wrong key, unknown model), so the build stops."""


def from_os_error(error: OSError) -> MaltError:
    """Return the error to print for an OSError that no other handler explained."""
    try:
        os.getcwd()  # noqa: PTH109 - Path.cwd() is the same call
    except FileNotFoundError:
        return MaltError("The current directory no longer exists. Change to another one.")
    return MaltError(
        f"{error.filename or 'A file'} could not be read or written: "
        f"{error.strerror or one_line(error)}. Check the path, its permissions and free disk "
        "space, then run the same command again."
    )


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, without a final period."""
    message = " ".join(str(error).split()) or type(error).__name__
    return (message if len(message) <= 300 else message[:300] + " …").rstrip(".")
