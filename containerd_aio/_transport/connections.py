"""The three connections of a client, and the view that the stubs of one namespace have of them."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from containerd_aio._transport.channel import Channel

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from grpclib.const import Cardinality
    from grpclib.metadata import Deadline

    from containerd_aio._transport.dial import Address
    from containerd_aio._transport.hook import RPCHook
    from containerd_aio._transport.stream import Stream

NAMESPACE_HEADER = "containerd-namespace"
LEASE_HEADER = "containerd-lease"

# (connections, namespace) -> lease id: what `Client.lease()` puts around a piece of work, inherited by the tasks it
# starts. A lease means nothing to another daemon or in another namespace, hence the key.
active_leases: ContextVar[Mapping[tuple[int, str], str]] = ContextVar("containerd_aio_leases", default={})  # noqa: B039


class Connections:
    """Three channels to one daemon, each dialled when first used.

    Events have one of their own since a single unread stream stalls every call beside it; content streams have another,
    so that bulk data does not delay the calls that steer containers (docs/decisions/0003).

    Attributes:
        rpc: For everything that is not below.
        bulk: For the content service.
        events: For the one subscription of the event hub.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout: float,
        connect_timeout: float,
        tls: ssl.SSLContext | None = None,
        hook: RPCHook | None = None,
    ) -> None:
        self.address = address

        def channel() -> Channel:
            return Channel(address, timeout=timeout, connect_timeout=connect_timeout, tls=tls, hook=hook)

        self.rpc = channel()
        self.bulk = channel()
        self.events = channel()

    def close(self) -> None:
        """Close all three; calls under way end with `Closed`."""
        for channel in (self.rpc, self.bulk, self.events):
            channel.close()


class NamespacedChannel:
    """What the stubs of one namespace take for their channel: it adds the namespace and lease headers.

    Args:
        connections: The connections of the client.
        channel: The one of them to use.
        namespace: Namespace of every call.
    """

    def __init__(self, connections: Connections, channel: Channel, namespace: str) -> None:
        self._channel = channel
        self._namespace = namespace
        self._lease_key = (id(connections), namespace)

    def request(
        self,
        name: str,
        cardinality: Cardinality,
        request_type: type[Any],
        reply_type: type[Any],
        *,
        timeout: float | None = None,
        deadline: Deadline | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Stream:
        """Prepare one RPC with this namespace's headers; headers given by the caller win."""
        headers = {NAMESPACE_HEADER: self._namespace}
        lease = active_leases.get().get(self._lease_key)
        if lease is not None:
            headers[LEASE_HEADER] = lease
        headers.update(metadata or {})
        return self._channel.request(
            name, cardinality, request_type, reply_type, timeout=timeout, deadline=deadline, metadata=headers
        )
