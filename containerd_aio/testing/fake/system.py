"""The small services: version, health, introspection."""

from __future__ import annotations

import os
import platform
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from grpclib.const import Status

from containerd_aio.api.containerd.services.introspection.v1 import (
    IntrospectionBase,
    Plugin,
    PluginInfoRequest,
    PluginInfoResponse,
    PluginsRequest,
    PluginsResponse,
    ServerResponse,
)
from containerd_aio.api.containerd.services.version.v1 import VersionBase, VersionResponse
from containerd_aio.api.containerd.types import Platform
from containerd_aio.api.grpc.health.v1 import (
    HealthBase,
    HealthCheckRequest,
    HealthCheckResponse,
    HealthCheckResponseServingStatus,
)
from containerd_aio.distribution.platforms import default_platform
from containerd_aio.testing.fake.call import refuse, refuse_plainly
from containerd_aio.testing.fake.filters import select

if TYPE_CHECKING:
    from containerd_aio.api.google.protobuf import Empty
    from containerd_aio.testing.fake.world import World

SNAPSHOTTERS = ("native", "overlayfs")
"""The snapshotters the fake has."""


class VersionService(VersionBase):
    """containerd.services.version.v1.Version."""

    def __init__(self, world: World) -> None:
        self._release = world.release

    async def version(self, message: Empty) -> VersionResponse:  # noqa: ARG002
        """Say which release it is."""
        return VersionResponse(version=self._release.version, revision=self._release.revision)


class HealthService(HealthBase):
    """grpc.health.v1.Health."""

    async def check(self, message: HealthCheckRequest) -> HealthCheckResponse:
        """Say that all is well."""
        if message.service:
            raise refuse_plainly(Status.NOT_FOUND, "unknown service")
        return HealthCheckResponse(status=HealthCheckResponseServingStatus.SERVING)


class IntrospectionService(IntrospectionBase):
    """containerd.services.introspection.v1.Introspection."""

    def __init__(self, world: World) -> None:
        self._release = world.release
        self._uuid = str(uuid.uuid4())
        self._plugins = _plugins(world)

    async def plugins(self, message: PluginsRequest) -> PluginsResponse:
        """List the plugins that matter to clients."""
        new = self._release.plugin_info
        found = select(
            self._plugins,
            message.filters,
            lambda plugin: {"type": plugin.type, "id": plugin.id},
            prefix="invalid argument: " if new else "",
            suffix="" if new else ": invalid argument",
        )
        return PluginsResponse(plugins=found)

    async def server(self, message: Empty) -> ServerResponse:  # noqa: ARG002
        """Say who it is."""
        if not self._release.tells_pid:
            return ServerResponse(uuid=self._uuid)
        namespace = Path("/proc/self/ns/pid").stat().st_ino  # noqa: ASYNC240 - procfs does not block
        return ServerResponse(uuid=self._uuid, pid=os.getpid(), pidns=namespace)

    async def plugin_info(self, message: PluginInfoRequest) -> PluginInfoResponse:
        """Return one plugin."""
        if not self._release.plugin_info:
            service = "containerd.services.introspection.v1.Introspection"
            raise refuse_plainly(Status.UNIMPLEMENTED, f"unknown method PluginInfo for service {service}")
        for plugin in self._plugins:
            if (plugin.type, plugin.id) == (message.type, message.id):
                return PluginInfoResponse(plugin=plugin)
        raise refuse(Status.NOT_FOUND, f"plugin {message.type}.{message.id}")


def _plugins(world: World) -> list[Plugin]:
    here = default_platform()
    linux = [Platform(os="linux", architecture=here.architecture or platform.machine())]
    snapshotters = [
        Plugin(
            type="io.containerd.snapshotter.v1",
            id=name,
            platforms=linux,
            exports={"root": str(world.root / f"io.containerd.snapshotter.v1.{name}")},
        )
        for name in SNAPSHOTTERS
    ]
    others = [
        Plugin(type="io.containerd.content.v1", id="content", exports={"root": str(world.root)}),
        Plugin(type="io.containerd.metadata.v1", id="bolt", exports={"policy": "shared"}),
        Plugin(type="io.containerd.differ.v1", id="walking", platforms=linux),
        Plugin(type="io.containerd.runtime.v2", id="task", platforms=linux),
        Plugin(type="io.containerd.event.v1", id="exchange"),
    ]
    services = "containers content diff events images introspection leases namespaces snapshots tasks version"
    return [
        *others,
        *snapshotters,
        *(Plugin(type="io.containerd.grpc.v1", id=name) for name in services.split()),
    ]
