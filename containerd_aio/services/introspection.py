"""What the daemon says about itself: its identity, its plugins, what it uses that is deprecated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from containerd_aio import typeurl
from containerd_aio.api.containerd.services.introspection.v1 import DeprecationWarning as RawDeprecation
from containerd_aio.api.containerd.services.introspection.v1 import Plugin as RawPlugin
from containerd_aio.api.containerd.services.introspection.v1 import PluginInfoRequest, PluginsRequest
from containerd_aio.api.containerd.services.introspection.v1 import ServerResponse as RawServer
from containerd_aio.api.google.protobuf import Any as AnyMessage
from containerd_aio.api.google.protobuf import Empty
from containerd_aio.errors import FailedPrecondition, NotFound
from containerd_aio.services._convert import to_datetime
from containerd_aio.services.descriptor import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from betterproto2 import Message

    from containerd_aio.api.containerd.types import RuntimeInfo as RawRuntimeInfo
    from containerd_aio.services.stubs import Services

SNAPSHOTTER_PLUGIN = "io.containerd.snapshotter.v1"
"""Type of the plugins that are snapshotters; their id is the snapshotter's name."""


@dataclass(frozen=True, slots=True)
class Deprecation:
    """A deprecated feature that the daemon has seen in use.

    Attributes:
        id: Its name.
        message: What to do about it.
        last_occurrence: When it was used last.
    """

    id: str
    message: str
    last_occurrence: datetime | None

    @classmethod
    def from_raw(cls, raw: RawDeprecation) -> Self:
        """Take over containerd's message."""
        return cls(raw.id, raw.message, to_datetime(raw.last_occurrence))


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Who the daemon is.

    Attributes:
        uuid: Identity of its root directory, kept over restarts.
        pid: Its process id, in the PID namespace `pidns`; None where it does not say (containerd 1.6).
        pidns: Inode of its PID namespace, as in ``/proc/self/ns/pid``; None where it does not say.
        deprecations: Deprecated features it has seen in use (from late containerd 1.6 and 1.7 on).
        raw: containerd's message.
    """

    uuid: str
    pid: int | None
    pidns: int | None
    deprecations: tuple[Deprecation, ...]
    raw: RawServer = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: RawServer) -> Self:
        """Take over containerd's message."""
        deprecations = tuple(Deprecation.from_raw(item) for item in raw.deprecations)
        return cls(raw.uuid, raw.pid or None, raw.pidns or None, deprecations, raw)


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin of the daemon.

    Attributes:
        type: Its kind, such as ``io.containerd.snapshotter.v1``.
        id: Its name among its kind.
        requires: Kinds of plugins it needs.
        platforms: Platforms it works for.
        exports: What it publishes, such as the ``root`` of a snapshotter.
        capabilities: What it can do.
        init_error: Why it is not in use; None if it is.
        raw: containerd's message.
    """

    type: str
    id: str
    requires: tuple[str, ...]
    platforms: tuple[Platform, ...]
    exports: Mapping[str, str]
    capabilities: tuple[str, ...]
    init_error: str | None
    raw: RawPlugin = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: RawPlugin) -> Self:
        """Take over containerd's message."""
        error = None
        if raw.init_err is not None:
            error = raw.init_err.message or f"code {raw.init_err.code}"
        return cls(
            raw.type,
            raw.id,
            tuple(raw.requires),
            tuple(Platform.from_raw(platform) for platform in raw.platforms),
            dict(raw.exports),
            tuple(raw.capabilities),
            error,
            raw,
        )


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin, and what it answers to a question.

    Attributes:
        plugin: The plugin.
        extra: Its answer, unpacked as `typeurl.unpack` does; None if it gave none.
    """

    plugin: Plugin
    extra: Any


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What the shim of a runtime says about itself.

    Attributes:
        name: Name of the runtime, such as ``io.containerd.runc.v2``.
        version: Release of the shim.
        revision: What it was built from.
        options: The options as the shim understood them, unpacked; None if there were none.
        features: The OCI runtime's features document; None if it has none.
        annotations: What else the shim says.
        raw: containerd's message.
    """

    name: str
    version: str
    revision: str
    options: Any
    features: Mapping[str, Any] | None
    annotations: Mapping[str, str]
    raw: RawRuntimeInfo = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: RawRuntimeInfo) -> Self:
        """Take over containerd's message."""
        return cls(
            raw.name,
            raw.version.version if raw.version is not None else "",
            raw.version.revision if raw.version is not None else "",
            _unpacked(raw.options),
            _unpacked(raw.features),
            dict(raw.annotations),
            raw,
        )


class Introspection:
    """The introspection service.

    Args:
        services: The stubs to call.
    """

    def __init__(self, services: Services) -> None:
        self._stub = services.introspection

    async def server(self) -> ServerInfo:
        """Ask the daemon who it is."""
        return ServerInfo.from_raw(await self._stub.server(Empty()))

    async def plugins(self, *filters: str) -> list[Plugin]:
        """Return the plugins that match any of `filters` (they know ``type`` and ``id``), or all.

        Raises:
            InvalidArgument: A filter is malformed.
        """
        reply = await self._stub.plugins(PluginsRequest(filters=[*filters]))
        return [Plugin.from_raw(raw) for raw in reply.plugins]

    async def plugin_info(self, type: str, id: str, *, options: Message | None = None) -> PluginInfo:  # noqa: A002
        """Return a plugin and what it answers to `options` (containerd 2.0 and later).

        Args:
            type: Its kind, such as ``io.containerd.runtime.v2``.
            id: Its name among its kind, such as ``task``.
            options: A question that the plugin understands.

        Raises:
            NotFound: There is no such plugin.
            Unimplemented: The daemon is older.
        """
        packed = None if options is None else typeurl.pack(options)
        reply = await self._stub.plugin_info(PluginInfoRequest(type=type, id=id, options=packed))
        assert reply.plugin is not None
        return PluginInfo(Plugin.from_raw(reply.plugin), _unpacked(reply.extra))

    async def runtime_info(
        self, runtime: str = "io.containerd.runc.v2", *, options: Message | None = None
    ) -> RuntimeInfo:
        """Ask the shim of a runtime what it is (Go: ``Client.RuntimeInfo``; containerd 2.0 and later).

        Args:
            runtime: Name of the runtime, or path of its shim.
            options: Options it would get from a task.

        Raises:
            Unimplemented: The daemon is older.
            ContainerdError: There is no such runtime, or its shim does not tell.
        """
        from containerd_aio.api.containerd.types import RuntimeRequest

        question = RuntimeRequest(
            runtime_path=runtime, options=None if options is None else typeurl.pack(options)
        )
        info = await self.plugin_info("io.containerd.runtime.v2", "task", options=question)
        return RuntimeInfo.from_raw(info.extra)

    async def snapshotter_capabilities(self, snapshotter: str) -> tuple[str, ...]:
        """Return what a snapshotter can do, such as ``remap-ids`` (Go: ``Client.GetSnapshotterCapabilities``).

        Raises:
            NotFound: There is no such snapshotter.
            FailedPrecondition: It is not in use; the text says why.
        """
        return (await self._snapshotter(snapshotter)).capabilities

    async def snapshotter_platforms(self, snapshotter: str) -> tuple[Platform, ...]:
        """Return the platforms a snapshotter works for (Go: ``Client.GetSnapshotterSupportedPlatforms``).

        Raises:
            NotFound: There is no such snapshotter.
            FailedPrecondition: It is not in use; the text says why.
        """
        return (await self._snapshotter(snapshotter)).platforms

    async def _snapshotter(self, name: str) -> Plugin:
        for plugin in await self.plugins(f"type=={SNAPSHOTTER_PLUGIN}"):
            if plugin.id == name:
                if plugin.init_error is not None:
                    raise FailedPrecondition(f"the snapshotter {name} is not in use: {plugin.init_error}")
                return plugin
        raise NotFound(f"the daemon has no snapshotter {name}")


def _unpacked(value: AnyMessage | None) -> Any:
    return None if value is None or not value.type_url else typeurl.unpack(value)
