"""Every generated stub of one namespace, made when first asked for."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from containerd_aio._transport.connections import Connections, NamespacedChannel

if TYPE_CHECKING:
    from containerd_aio._transport.channel import Channel
    from containerd_aio.api.containerd.services.containers.v1 import ContainersStub
    from containerd_aio.api.containerd.services.content.v1 import ContentStub
    from containerd_aio.api.containerd.services.diff.v1 import DiffStub
    from containerd_aio.api.containerd.services.events.v1 import EventsStub
    from containerd_aio.api.containerd.services.images.v1 import ImagesStub
    from containerd_aio.api.containerd.services.introspection.v1 import IntrospectionStub
    from containerd_aio.api.containerd.services.leases.v1 import LeasesStub
    from containerd_aio.api.containerd.services.namespaces.v1 import NamespacesStub
    from containerd_aio.api.containerd.services.sandbox.v1 import ControllerStub, StoreStub
    from containerd_aio.api.containerd.services.snapshots.v1 import SnapshotsStub
    from containerd_aio.api.containerd.services.streaming.v1 import StreamingStub
    from containerd_aio.api.containerd.services.tasks.v1 import TasksStub
    from containerd_aio.api.containerd.services.transfer.v1 import TransferStub
    from containerd_aio.api.containerd.services.version.v1 import VersionStub
    from containerd_aio.api.grpc.health.v1 import HealthStub


class Services:
    """The generated stubs, for what this library has no method for.

    Every call made through them carries the namespace, the lease in force, the default deadline and the library's
    errors, like any other. ``timeout=`` takes seconds, ``math.inf`` for none. Messages are those of
    ``containerd_aio.api``.

    Args:
        connections: The connections of the client.
        namespace: Namespace of every call.
    """

    def __init__(self, connections: Connections, namespace: str) -> None:
        self.connections = connections
        self.namespace = namespace

    def _view(self, channel: Channel) -> Any:
        return cast("Any", NamespacedChannel(self.connections, channel, self.namespace))

    @cached_property
    def containers(self) -> ContainersStub:
        """Container records."""
        from containerd_aio.api.containerd.services.containers.v1 import ContainersStub

        return ContainersStub(self._view(self.connections.rpc))

    @cached_property
    def content(self) -> ContentStub:
        """The content store, on the connection for bulk data."""
        from containerd_aio.api.containerd.services.content.v1 import ContentStub

        return ContentStub(self._view(self.connections.bulk))

    @cached_property
    def diff(self) -> DiffStub:
        """Layers applied to and made from mounts."""
        from containerd_aio.api.containerd.services.diff.v1 import DiffStub

        return DiffStub(self._view(self.connections.rpc))

    @cached_property
    def events(self) -> EventsStub:
        """Publishing; a subscription of your own is better had from `Client.events`."""
        from containerd_aio.api.containerd.services.events.v1 import EventsStub

        return EventsStub(self._view(self.connections.rpc))

    @cached_property
    def health(self) -> HealthStub:
        """The gRPC health service."""
        from containerd_aio.api.grpc.health.v1 import HealthStub

        return HealthStub(self._view(self.connections.rpc))

    @cached_property
    def images(self) -> ImagesStub:
        """Image records."""
        from containerd_aio.api.containerd.services.images.v1 import ImagesStub

        return ImagesStub(self._view(self.connections.rpc))

    @cached_property
    def introspection(self) -> IntrospectionStub:
        """The daemon's plugins and identity."""
        from containerd_aio.api.containerd.services.introspection.v1 import IntrospectionStub

        return IntrospectionStub(self._view(self.connections.rpc))

    @cached_property
    def leases(self) -> LeasesStub:
        """Leases, which keep what is being built from the garbage collector."""
        from containerd_aio.api.containerd.services.leases.v1 import LeasesStub

        return LeasesStub(self._view(self.connections.rpc))

    @cached_property
    def namespaces(self) -> NamespacesStub:
        """Namespaces and their labels."""
        from containerd_aio.api.containerd.services.namespaces.v1 import NamespacesStub

        return NamespacesStub(self._view(self.connections.rpc))

    @cached_property
    def sandbox_store(self) -> StoreStub:
        """Sandbox records (containerd 1.7 and later)."""
        from containerd_aio.api.containerd.services.sandbox.v1 import StoreStub

        return StoreStub(self._view(self.connections.rpc))

    @cached_property
    def sandbox_controller(self) -> ControllerStub:
        """Running sandboxes (containerd 1.7 and later)."""
        from containerd_aio.api.containerd.services.sandbox.v1 import ControllerStub

        return ControllerStub(self._view(self.connections.rpc))

    @cached_property
    def snapshots(self) -> SnapshotsStub:
        """Snapshotters."""
        from containerd_aio.api.containerd.services.snapshots.v1 import SnapshotsStub

        return SnapshotsStub(self._view(self.connections.rpc))

    @cached_property
    def streaming(self) -> StreamingStub:
        """Named streams for the transfer service (containerd 1.7 and later), on the connection for bulk data."""
        from containerd_aio.api.containerd.services.streaming.v1 import StreamingStub

        return StreamingStub(self._view(self.connections.bulk))

    @cached_property
    def tasks(self) -> TasksStub:
        """Running containers."""
        from containerd_aio.api.containerd.services.tasks.v1 import TasksStub

        return TasksStub(self._view(self.connections.rpc))

    @cached_property
    def transfer(self) -> TransferStub:
        """Images moved by the daemon itself (containerd 1.7 and later)."""
        from containerd_aio.api.containerd.services.transfer.v1 import TransferStub

        return TransferStub(self._view(self.connections.rpc))

    @cached_property
    def version(self) -> VersionStub:
        """The daemon's version."""
        from containerd_aio.api.containerd.services.version.v1 import VersionStub

        return VersionStub(self._view(self.connections.rpc))
