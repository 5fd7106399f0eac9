"""Prefetching: batches are made on a thread of their own while the device computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Iterates over `source` with up to `depth` items made ahead; an error in the source is raised here.

    Loading has no state of its own: the source is a function of the step it starts from, so batches
    made ahead when a run stopped are made again.
    """

    def __init__(self, source: Iterable[Item], depth: int):
        self._queue: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(source,), daemon=True, name="prefetch")
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        item, error = self._queue.get()
        if error is not None:
            raise error
        assert item is not None
        return item

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _fill(self, source: Iterable[Item]) -> None:
        try:
            for item in source:
                self._put((item, None))
                if self._stopped.is_set():
                    return
            self._put((None, StopIteration()))
        except Exception as error:  # whatever it is, it belongs to the training thread
            self._put((None, error))

    def _put(self, entry: tuple[Item | None, BaseException | None]) -> None:
        while not self._stopped.is_set():
            try:
                return self._queue.put(entry, timeout=0.1)
            except queue.Full:
                continue
