"""What every verb of a client needs: the scope it works in."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from containerd_aio.errors import Closed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from containerd_aio._scope import Scope
    from containerd_aio.services.stubs import Services


class ClientBase:
    """A client that may be open, in one namespace."""

    _namespace: str
    _open_scope: Scope | None

    @property
    def namespace(self) -> str:
        """The namespace of what is done through this client."""
        return self._namespace

    @property
    def _scope(self) -> Scope:
        if self._open_scope is None:
            raise Closed("the client is not open; use it inside 'async with Client() as client'")
        return self._open_scope

    @property
    def services(self) -> Services:
        """The generated stubs, for what this library has no method for."""
        return self._scope.services

    def lease(
        self,
        *,
        id: str | None = None,  # noqa: A002 - containerd's word
        expires: timedelta | None = timedelta(hours=24),
        labels: Mapping[str, str] | None = None,
        sync: bool = False,
    ) -> AbstractAsyncContextManager[str]:
        """Hold a lease for the length of a block: what is made in it, by it and by tasks it starts, is not collected.

        A block inside another uses the lease that is there, and its options mean nothing (Go: ``Client.WithLease``).

        Args:
            id: Name of the lease; a random one by default.
            expires: When it ends by itself should this process die; None means never: such a lease, and all that it
                protects, stays until somebody deletes it.
            labels: Labels of the lease.
            sync: Run a garbage collection at the end, and leave the block when it is done.

        Raises:
            AlreadyExists: There is a lease of that name.
            InvalidArgument: `expires` is not in the future.
        """
        from containerd_aio.services.leases import lease

        return lease(self.services, id=id, expires=expires, labels=labels, sync=sync)
