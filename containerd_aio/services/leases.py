"""Leases: what keeps content and snapshots from the garbage collector while something is being built of them."""

from __future__ import annotations

import builtins
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Self

import anyio

from containerd_aio._cancellation import through_a_restart
from containerd_aio._log import get_logger
from containerd_aio._transport.connections import active_leases
from containerd_aio.api.containerd.services.leases.v1 import (
    AddResourceRequest,
    CreateRequest,
    DeleteRequest,
    DeleteResourceRequest,
    ListRequest,
    ListResourcesRequest,
)
from containerd_aio.api.containerd.services.leases.v1 import Lease as RawLease
from containerd_aio.api.containerd.services.leases.v1 import Resource as RawResource
from containerd_aio.errors import (
    ConnectError,
    ContainerdError,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from containerd_aio.services._convert import to_datetime, unique_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping

    from containerd_aio.services.stubs import Services

EXPIRE_LABEL = "containerd.io/gc.expire"
"""Label holding the RFC 3339 time after which the garbage collector ignores a lease."""

FLAT_LABEL = "containerd.io/gc.flat"
"""Label of a lease that protects only its own resources, not what they refer to."""

DEFAULT_EXPIRATION = timedelta(hours=24)
"""How long a lease lives if nobody deletes it (Go: ``Client.WithLease``)."""

# Neither making nor deleting a lease may hold up a cancelled caller for long; what is left expires by itself.
_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as the daemon keeps it.

    Attributes:
        id: Its name.
        created_at: When it was made.
        labels: Its labels; `EXPIRE_LABEL` ends it by itself.
        raw: containerd's message.
    """

    id: str
    created_at: datetime | None
    labels: Mapping[str, str]
    raw: RawLease = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: RawLease) -> Self:
        """Take over containerd's message."""
        return cls(raw.id, to_datetime(raw.created_at), dict(raw.labels), raw)


@dataclass(frozen=True, slots=True)
class Resource:
    """What a lease protects.

    Attributes:
        type: ``content``, ``ingests``, ``snapshots/<snapshotter>``, or (containerd 2.x) ``images``.
        id: Digest, ingest ref, snapshot key or image name.
    """

    type: str
    id: str


class Leases:
    """The leases of one namespace.

    Args:
        services: The stubs to call.
    """

    def __init__(self, services: Services) -> None:
        self._stub = services.leases
        self._key = _key(services)

    @property
    def current(self) -> str | None:
        """The name of the lease that calls made here and now carry, if any (Go: ``leases.FromContext``)."""
        return active_leases.get().get(self._key)

    @contextmanager
    def use(self, lease: str | Lease) -> Iterator[None]:
        """Have the calls made in a block carry a lease that is there: ``with leases.use(lease)``.

        The lease is neither made nor deleted. Unlike `Client.lease` this wins over a lease that is in force already, for
        the length of the block (Go: ``leases.WithLease``).
        """
        before = self.current
        _put_in_force(self._key, _id(lease))
        try:
            yield
        finally:
            _end(self._key, before)

    async def create(
        self,
        *,
        id: str | None = None,  # noqa: A002 - containerd's word
        labels: Mapping[str, str] | None = None,
        expires: timedelta | None = None,
        timeout: float | None = None,
    ) -> Lease:
        """Create a lease.

        Args:
            id: Its name; a random one by default.
            labels: Its labels.
            expires: The garbage collector ignores the lease after this time; None means never.
            timeout: Seconds; the client's default if None.

        Raises:
            AlreadyExists: There is a lease of that name.
            InvalidArgument: `expires` is not in the future.
        """
        labels = dict(labels or {})
        if expires is not None:
            if expires <= timedelta(0):
                raise InvalidArgument(f"a lease that expires in {expires} would protect nothing")
            labels[EXPIRE_LABEL] = (datetime.now(UTC) + expires).isoformat(timespec="seconds")
        reply = await self._stub.create(CreateRequest(id=id or unique_name(), labels=labels), timeout=timeout)
        assert reply.lease is not None
        return Lease.from_raw(reply.lease)

    async def delete(self, lease: str | Lease, *, sync: bool = False) -> None:
        """Delete a lease.

        Args:
            lease: The lease or its name.
            sync: Run a garbage collection now and return when it is done.

        Raises:
            NotFound: There is no such lease.
        """
        await self._stub.delete(DeleteRequest(id=_id(lease), sync=sync))

    async def list(self, *filters: str) -> builtins.list[Lease]:
        """Return the leases that match any of `filters` (containerd's filter language), or all."""
        reply = await self._stub.list(ListRequest(filters=[*filters]))
        return [Lease.from_raw(raw) for raw in reply.leases]

    async def add_resource(self, lease: str | Lease, resource: Resource) -> None:
        """Protect `resource`, which need not exist yet.

        Raises:
            NotFound: There is no such lease.
            Unimplemented: containerd 1.x was given a resource of type ``images``.
        """
        await self._stub.add_resource(
            AddResourceRequest(id=_id(lease), resource=RawResource(id=resource.id, type=resource.type))
        )

    async def delete_resource(self, lease: str | Lease, resource: Resource) -> None:
        """Protect `resource` no longer.

        Raises:
            NotFound: There is no such lease.
        """
        await self._stub.delete_resource(
            DeleteResourceRequest(id=_id(lease), resource=RawResource(id=resource.id, type=resource.type))
        )

    async def resources(self, lease: str | Lease) -> builtins.list[Resource]:
        """Return what `lease` protects.

        Raises:
            NotFound: There is no such lease.
        """
        reply = await self._stub.list_resources(ListResourcesRequest(id=_id(lease)))
        return [Resource(raw.type, raw.id) for raw in reply.resources]


def _id(lease: str | Lease) -> str:
    name = lease if isinstance(lease, str) else lease.id
    if not name:
        raise InvalidArgument("the name of a lease is empty")
    return name


def _key(services: Services) -> tuple[int, str]:
    return (id(services.connections), services.namespace)


def _put_in_force(key: tuple[int, str], name: str) -> None:
    active_leases.set({**active_leases.get(), key: name})


def _end(key: tuple[int, str], before: str | None = None) -> None:
    # Not a token's reset: a fixture's two halves may run in different contexts.
    rest = {k: v for k, v in active_leases.get().items() if k != key}
    active_leases.set(rest if before is None else {**rest, key: before})


@asynccontextmanager
async def lease(
    services: Services,
    *,
    id: str | None = None,  # noqa: A002 - containerd's word
    expires: timedelta | None = DEFAULT_EXPIRATION,
    labels: Mapping[str, str] | None = None,
    sync: bool = False,
) -> AsyncGenerator[str, None]:
    """Hold a lease for the length of the block.

    Every call made in the block to this daemon and namespace carries it, in the tasks started there too, so that what
    they make is not collected before it is used. The lease is deleted at the end, also when the block is cancelled.
    Where a lease is in force already it is used, and the block neither makes nor deletes one (Go: ``Client.WithLease``).

    Args:
        services: Says which daemon and namespace.
        id: Name of the lease; a random one by default.
        expires: When the lease ends by itself should this process die; None means never. Choose it longer than the
            block can take: a lease cannot be prolonged.
        labels: Labels of the lease.
        sync: Run a garbage collection at the end, and leave the block when it is done.

    Yields:
        The name of the lease.

    Raises:
        AlreadyExists: There is a lease of that name.
        InvalidArgument: `expires` is not in the future, or `id` is empty.
    """
    key = _key(services)
    held = active_leases.get().get(key)
    if held is not None:
        yield held
        return
    leases = Leases(services)
    name = unique_name() if id is None else _id(id)
    try:
        # Shielded: a call broken off may be carried out after the clean-up that follows it.
        with anyio.CancelScope(shield=True):
            await leases.create(id=name, labels=labels, expires=expires, timeout=_TIMEOUT)
    except ConnectError:
        raise
    except (DeadlineExceeded, Unavailable, anyio.get_cancelled_exc_class()):
        if id is None:  # else it may be somebody else's
            await _delete_at_end(leases, name)  # it may have been made all the same
        raise
    _put_in_force(key, name)
    try:
        yield name
    finally:
        _end(key)
        await _delete_at_end(leases, name, sync=sync)


async def _delete_at_end(leases: Leases, name: str, *, sync: bool = False) -> None:
    """Delete a lease whatever happens around; one that cannot be deleted expires by itself."""
    with anyio.move_on_after(_TIMEOUT, shield=True) as scope:
        try:
            await through_a_restart(partial(leases.delete, name, sync=sync))
        except NotFound:
            pass  # somebody else did
        except ContainerdError as exc:
            get_logger(__name__).warning("lease not deleted", lease=name, error=str(exc))
    if scope.cancelled_caught:
        get_logger(__name__).warning("lease not deleted in time", lease=name, timeout=_TIMEOUT)
