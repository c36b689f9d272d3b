"""Run a command's work in a child process, under a memory limit."""

import os
import signal
import sys
import traceback
from collections.abc import Callable

from malt_data.errors import MaltError, QueryError, from_os_error

_GIBIBYTES = 16


def isolated(work: Callable[[], None]) -> int:
    """Run `work` in a child process with a memory limit; return its exit code.

    The caller survives whatever happens to the child: a MaltError is printed as one line on
    stderr, death by a signal raises QueryError. Ctrl-C kills the child.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _run_child(work)
    try:
        _, status = os.waitpid(child, 0)
    except KeyboardInterrupt:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        raise QueryError(
            f"The query was killed ({name}), probably because it needs more than {_GIBIBYTES} GiB "
            "of memory. Select fewer rows or columns, or aggregate."
        )
    return os.waitstatus_to_exitcode(status)


def _run_child(work: Callable[[], None]) -> None:
    import resource

    limit = _GIBIBYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    code = 1
    try:
        work()
        sys.stdout.flush()
        code = 0
    except MaltError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        code = error.exit_code
    except BrokenPipeError:  # the reader (head) has quit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except OSError as error:
        print(f"Error: {from_os_error(error)}", file=sys.stderr)  # noqa: T201
    except MemoryError:
        print("Error: The query ran out of memory. Select fewer rows.", file=sys.stderr)  # noqa: T201
    except BaseException:  # noqa: BLE001 - a bug: show it, but never return to the parent's code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
