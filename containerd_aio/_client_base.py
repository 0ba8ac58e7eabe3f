"""What every verb of a client needs: the scope it works in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containerd_aio.errors import Closed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager
    from datetime import timedelta

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
        self, *, expires: timedelta | None = None, labels: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[str]:
        """Hold a lease for the length of a block: what is made in it, by it and by tasks it starts, is not collected.

        Args:
            expires: When it ends by itself should this process die; 24 hours by default.
            labels: Labels of the lease.
        """
        from containerd_aio.services.leases import DEFAULT_EXPIRATION, lease

        return lease(self.services, expires=expires or DEFAULT_EXPIRATION, labels=labels)
