"""What a client, its containers and their tasks have in common."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from containerd_aio.errors import Closed
from containerd_aio.services.stubs import Services

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anyio.abc import TaskGroup

    from containerd_aio._transport.connections import Connections
    from containerd_aio.events.hub import EventHub


class Core:
    """The resources of one open client, shared by its namespaces.

    Args:
        connections: The connections to the daemon.
        task_group: Where background work runs.
        hub_options: Options of the event hub.

    Attributes:
        connections: The connections to the daemon.
        task_group: Where background work runs: the event hub, the copiers of standard streams.
        closed: Whether the client has been left.
    """

    def __init__(
        self, connections: Connections, task_group: TaskGroup, *, hub_options: Mapping[str, Any]
    ) -> None:
        self.connections = connections
        self.task_group = task_group
        self._hub_options = hub_options
        self.closed = False
        self._version: str | None = None
        self._hub_runs = False

    @cached_property
    def hub(self) -> EventHub:
        """The event hub; it runs from when `live_hub` was first awaited."""
        from containerd_aio.events.hub import EventHub

        return EventHub(self.connections, **self._hub_options)

    def run_hub(self) -> EventHub:
        """Start the hub if it does not run, and return it.

        Raises:
            Closed: The client was closed.
        """
        if self.closed:
            raise Closed("the client is closed")
        if not self._hub_runs:
            self._hub_runs = True
            self.task_group.start_soon(self.hub.run, name="containerd-aio event hub")
        return self.hub

    async def live_hub(self) -> EventHub:
        """Return the hub once it is subscribed and in step.

        Raises:
            ContainerdError: The daemon can't be reached.
        """
        hub = self.run_hub()
        await hub.ready()
        return hub

    async def daemon_version(self) -> str:
        """Return the daemon's version, such as ``2.1.9``; asked once."""
        if self._version is None:
            self._version = (await Services(self.connections, "default").version.version()).version
        return self._version

    @cached_property
    def fifo_root(self) -> Path:
        """The directory for the FIFOs of standard streams."""
        from containerd_aio.stdio import default_fifo_root

        return default_fifo_root()


class Scope:
    """One namespace of an open client: all that a container or a task needs to reach the daemon.

    Args:
        core: The resources of the client.
        namespace: The namespace.
    """

    def __init__(self, core: Core, namespace: str) -> None:
        self.core = core
        self.namespace = namespace
        self.services = Services(core.connections, namespace)
