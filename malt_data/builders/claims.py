"""Claims: builds that share a folder lock each tree while growing it.

    claims = Claims(Path("forest/nodes"))
    claims.take("5f5d63edee44763e")      # False if another process has claimed it

The kernel releases the locks of a process that dies.
"""

import fcntl
from pathlib import Path

from malt_data.errors import StorageError


class Claims:
    """Locks trees for this process: one byte of `.claims` per tree, at an offset from its id.

    These are POSIX record locks: they work across processes and over NFS, the kernel releases them
    however the process ends, and the file stays empty.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / ".claims").open("a")

    def take(self, question_id: str) -> bool:
        """Claim a tree; return False if another process holds it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(question_id))
        except BlockingIOError:
            return False
        except OSError as error:
            raise StorageError(
                f"{self._file.name} cannot be locked ({error.strerror}): the file system does not "
                "support locks. Build on a local disk, with one folder per machine."
            ) from error
        return True

    def release(self, question_id: str) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _offset(question_id))

    def close(self) -> None:
        self._file.close()


def _offset(question_id: str) -> int:
    return int(question_id[:15], 16)  # 60 bits: fits a file offset, and collisions are negligible
