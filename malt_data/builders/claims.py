"""Claims: several builds share a folder, and each locks a tree while it grows.

    claims = Claims(Path("forest/nodes"))
    claims.take("5f5d63edee44763e")      # False where another process has it

The kernel drops the locks of a dead process by itself.
"""

import fcntl
from pathlib import Path

from malt_data.errors import StorageError


class Claims:
    """Locks trees for this process: one byte of `.claims` a tree, at an offset from its id.

    POSIX record locks: other processes see them (over NFS too), the kernel frees them when the
    process ends in any way, and the file stays empty.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / ".claims").open("a")

    def take(self, question_id: str) -> bool:
        """Return True if this process now holds the tree, False if another one does."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(question_id))
        except BlockingIOError:
            return False
        except OSError as error:
            raise StorageError(
                f"{self._file.name} cannot be locked ({error.strerror}): this file system has no "
                "locks. Build on a local disk, one folder a machine."
            ) from error
        return True

    def release(self, question_id: str) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _offset(question_id))

    def close(self) -> None:
        self._file.close()


def _offset(question_id: str) -> int:
    return int(question_id[:15], 16)  # 60 bits: fits a file offset, collisions are no concern
