"""Work that several tasks of this process want at the same time, and that is done once."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import current_token

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Hashable

    from containerd_aio.services.stubs import Services


class _Lock:
    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.users = 0


_locks: dict[Hashable, _Lock] = {}


@asynccontextmanager
async def alone(services: Services, *key: str) -> AsyncGenerator[None, None]:
    """Let one task after the other into the block, of those with the same daemon, namespace and key.

    Whoever comes second finds the work done. Without it the daemon would see to that, by making the second wait and ask
    again and again.
    """
    whole = (current_token(), str(services.connections.address), services.namespace, key)
    entry = _locks.setdefault(whole, _Lock())
    entry.users += 1
    try:
        async with entry.lock:
            yield
    finally:
        entry.users -= 1
        if not entry.users:
            del _locks[whole]
