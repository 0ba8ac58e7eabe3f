"""Which incarnations are remembered, by name and order, within bounds."""

from __future__ import annotations

import sys
from collections import deque

from containerd_aio.events.records import Incarnation

# So many under one name: the latest, and those that late events may still be about.
PER_NAME = 16


class Memory:
    """The incarnations that are known, newest first under each name.

    Args:
        remember: How many closed ones are kept over all names; the oldest goes first. A handle keeps its own alive.

    Attributes:
        open: Every open incarnation, as keys in the order they opened.
    """

    def __init__(self, *, remember: int) -> None:
        self.open: dict[Incarnation, None] = {}
        self._remember = remember
        self._latest: dict[str, dict[str, Incarnation]] = {}
        self._closed: deque[Incarnation] = deque()

    def __len__(self) -> int:
        """Return how many names are known."""
        return sum(len(names) for names in self._latest.values())

    def latest(self, namespace: str, container_id: str) -> Incarnation | None:
        """Return the latest incarnation of a container, open or closed."""
        names = self._latest.get(namespace)
        return None if names is None else names.get(container_id)

    def all(self, namespace: str, container_id: str) -> list[Incarnation]:
        """Return the incarnations of a container, newest first."""
        found = []
        incarnation = self.latest(namespace, container_id)
        while incarnation is not None:
            found.append(incarnation)
            incarnation = incarnation.former
        return found

    def find(self, namespace: str, container_id: str, pid: int) -> Incarnation | None:
        """Return the newest incarnation of a container whose init process has `pid`."""
        incarnation = self.latest(namespace, container_id)
        while incarnation is not None and incarnation.pid != pid:
            incarnation = incarnation.former
        return incarnation

    def add(self, incarnation: Incarnation, *, behind: bool = False) -> None:
        """Take in a new, open incarnation.

        Args:
            incarnation: The new one.
            behind: It is not the latest; it goes behind the one that is.
        """
        latest = self.latest(*incarnation.key)
        if latest is None or not behind:
            incarnation.former = latest
            self._set_latest(incarnation)
        else:
            latest.former, incarnation.former = incarnation, latest.former
        self.open[incarnation] = None
        self._prune(incarnation)

    def promote(self, incarnation: Incarnation) -> None:
        """Make a remembered incarnation the latest of its name."""
        latest = self.latest(*incarnation.key)
        if latest is not incarnation:
            self._unlink(incarnation)
            incarnation.former = self.latest(*incarnation.key)
            self._set_latest(incarnation)

    def close(self, incarnation: Incarnation) -> None:
        """Note that an incarnation closed, and forget the oldest closed one if there are too many."""
        self.open.pop(incarnation, None)
        self._closed.append(incarnation)
        while len(self._closed) > self._remember:
            self._unlink(self._closed.popleft())

    def _set_latest(self, incarnation: Incarnation) -> None:
        namespace = incarnation.namespace = sys.intern(incarnation.namespace)
        self._latest.setdefault(namespace, {})[incarnation.container_id] = incarnation

    def _prune(self, incarnation: Incarnation) -> None:
        """Forget what is too deep under a name, unless somebody still waits for it."""
        for depth, former in enumerate(self.all(*incarnation.key)):
            if depth >= PER_NAME and not (former.open and former.watched):
                self._unlink(former)
                self.open.pop(former, None)

    def _unlink(self, incarnation: Incarnation) -> None:
        namespace, container_id = incarnation.key
        node = self.latest(namespace, container_id)
        if node is incarnation:
            if incarnation.former is not None:
                self._latest[namespace][container_id] = incarnation.former
            else:
                del self._latest[namespace][container_id]
                if not self._latest[namespace]:
                    del self._latest[namespace]
        while node is not None:
            if node.former is incarnation:
                node.former = incarnation.former
                break
            node = node.former
        incarnation.former = None
