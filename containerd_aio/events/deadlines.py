"""Deadlines, the nearest always at hand."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """One deadline per key. Setting, clearing and looking cost no more when there are many.

    Cleared ones stay in the heap until their time; all here are a few seconds at most.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, K]] = []
        self._valid: dict[K, int] = {}
        self._serial = count()

    def __len__(self) -> int:
        return len(self._valid)

    def __contains__(self, key: K) -> bool:
        return key in self._valid

    def set(self, key: K, when: float) -> None:
        """Set the deadline of `key`, in place of a former one."""
        serial = self._valid[key] = next(self._serial)
        heappush(self._heap, (when, serial, key))

    def clear(self, key: K) -> None:
        """Forget the deadline of `key`, if it has one."""
        self._valid.pop(key, None)

    def next(self) -> float | None:
        """Return the nearest deadline; None when there is none."""
        while self._heap:
            when, serial, key = self._heap[0]
            if self._valid.get(key) == serial:
                return when
            heappop(self._heap)
        return None

    def due(self, now: float) -> Iterator[K]:
        """Yield the keys whose deadline has passed, earliest first, and forget their deadlines."""
        while (when := self.next()) is not None and when <= now:
            key = heappop(self._heap)[2]
            del self._valid[key]
            yield key
