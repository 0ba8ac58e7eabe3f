"""One lock for each key that somebody works on."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Hashable


class KeyedLock:
    """Locks by key; nothing remains of a key that nobody holds or waits for."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, tuple[anyio.Lock, int]] = {}

    def __len__(self) -> int:
        return len(self._locks)

    async def idle(self) -> None:
        """Return when nobody holds or waits for any lock that is in use now."""
        for key in list(self._locks):
            async with self(key):
                pass

    @asynccontextmanager
    async def __call__(self, key: Hashable) -> AsyncGenerator[None, None]:
        """Hold the lock of `key`."""
        lock, users = self._locks.get(key, (None, 0))
        lock = lock or anyio.Lock()
        self._locks[key] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = lock, users - 1
