"""Work that several tasks of this process want at the same time, and that must be done by one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio.lowlevel import current_token

from containerd_aio._locks import KeyedLock

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from containerd_aio.services.stubs import Services

_locks = KeyedLock()


def alone(services: Services, *key: str) -> AbstractAsyncContextManager[None]:
    """Let one task after the other into the block, of those with the same daemon, namespace and key.

    Whoever comes second finds the work done, or the thing as it was left. Without it the daemon would see to that, by
    making the second wait and ask again and again, or not at all.
    """
    return _locks((current_token(), str(services.connections.address), services.namespace, key))
