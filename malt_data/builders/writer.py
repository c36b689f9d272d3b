"""Write finished trees to part files in the background, while others are still growing.

with Writer(forest) as writer:
    writer.add(question_id, rows)     # returns immediately; on disk within a second
"""

import queue
import threading
import time
from typing import Any

from malt_data.builders.claims import Claims
from malt_data.forests.forest import Forest
from malt_data.forests.labels import node_table
from malt_data.forests.parts import TREES_PER_PART
from malt_data.forests.totals import table_pairs

_FLUSH_SECONDS = 1.0


class Writer:
    """A thread that writes finished trees to parts within a second."""

    def __init__(self, forest: Forest) -> None:
        self.forest = forest
        self.claims = Claims(forest.parts.folder)
        self.pairs = 0
        """Usable pairs in the trees written."""
        self._queue: queue.SimpleQueue[tuple[str, list[dict[str, Any]]] | None]
        self._queue = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="malt-writer", daemon=True)

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, error_type: object, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        self.claims.close()
        if self._error is not None and error_type is None:
            raise self._error

    def add(self, question_id: str, rows: list[dict[str, Any]]) -> None:
        """Queue a finished tree; re-raise the error that stopped the thread, e.g. a full disk."""
        if self._error is not None:
            raise self._error
        self._queue.put((question_id, rows))

    def _work(self) -> None:
        running = True
        while running:
            trees, running = self._gather()
            try:
                if trees and self._error is None:
                    self._write(trees)
            except BaseException as error:  # noqa: BLE001 - re-raised in the build's thread
                self._error = error

    def _gather(self) -> tuple[dict[str, list[dict[str, Any]]], bool]:
        """Collect up to one part of trees within a second; return them and whether to continue."""
        trees: dict[str, list[dict[str, Any]]] = {}
        deadline = None
        while len(trees) < TREES_PER_PART:
            try:
                item = self._queue.get(timeout=deadline and max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if item is None:
                return trees, False
            trees[item[0]] = item[1]
            deadline = deadline or time.monotonic() + _FLUSH_SECONDS
        return trees, True

    def _write(self, trees: dict[str, list[dict[str, Any]]]) -> None:
        rows = [row for tree in trees.values() for row in tree]
        table = node_table(rows, self.forest.manifest.labelled)
        self.forest.parts.write(table)
        self.pairs += table_pairs(table)
        for question_id in trees:
            self.claims.release(question_id)
